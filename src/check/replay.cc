#include <string>

#include "check/check.h"
#include "check/delta_rule.h"
#include "check/sequences.h"
#include "check/slots.h"

namespace gdn {
namespace {

constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;

// State and records. The dims are known from q and v (verify) or from the records (commit).
template <class Args>
void check_slot_tensors(Check& check, const Args& args, Access records, ReplayProblem* problem) {
  if (!check.ok()) return;
  const Shape& shape = problem->shape;
  const int64_t N = problem->sequences.count;
  const bool indexed = args.state_indices.given();
  check_state(check, "state", args.state, indexed ? Extent("slots") : Extent(N), shape,
              Access::kWrite);
  const int64_t slots = args.state.shape[0];
  const auto record = [&](const char* name, const TensorView& view, const Extents& extents,
                          DTypes dtypes) {
    check.tensor(name, view, extents, dtypes, Contiguous::kInsideSlots, records);
  };
  record("record_k", args.record_k, {slots, "M", shape.heads, shape.K}, DTypes::floats());
  const int64_t M = args.record_k.shape[1];
  if (!check.ok()) return;
  record("record_v", args.record_v, {slots, M, shape.value_heads, shape.V}, DTypes::floats());
  record("record_g", args.record_g, {slots, M, shape.value_heads}, DTypes::f32());
  if (indexed) check.index_tensor("state_indices", args.state_indices, {N});
  check.index_tensor("num_accepted", args.num_accepted, {N});
  if (!check.ok()) return;
  problem->shape.state_dtype = args.state.dtype;
  problem->state = slot_tensor(args.state);
  problem->state_indices = index_tensor(args.state_indices);
  problem->num_accepted = index_tensor(args.num_accepted);
  problem->null_slot = args.null_slot;
  problem->record_tokens = M;
  problem->record_k = slot_tensor(args.record_k);
  problem->record_v = slot_tensor(args.record_v);
  problem->record_g = slot_tensor(args.record_g);
}

void check_values(Check& check, const ReplayProblem& problem) {
  if (!check.can_read_values()) return;
  const int64_t N = problem.sequences.count;
  SlotWrites writes(N);
  for (int64_t n = 0; n < N; ++n) {
    const int64_t slot = problem.slot(n);
    if (slot < 0) continue;  // padding: nothing else of it is looked at
    check_slot(check, slot, problem.state.slots, "state",
               [&] { return element_text("state_indices", n); });
    const int64_t accepted = problem.num_accepted.at(n);
    if (accepted < 0 || accepted > problem.record_tokens) {
      check.fail(StatusCode::kOutOfRange, element_text("num_accepted", n),
                 "is " + std::to_string(accepted), "0 to " + std::to_string(problem.record_tokens));
    }
    writes.add({slot, n, 0});
  }
  if (problem.state_indices.given()) writes.check_distinct(check, "state_indices", false);
}

}  // namespace

Status check(const ReplayVerifyArgs& args, ReplayProblem* problem) {
  Check check(Op::kReplayVerify);
  problem->shape.op = Op::kReplayVerify;
  check_tokens(check, args, problem);
  check_slot_tensors(check, args, Access::kWrite, problem);
  if (check.ok() && lengths_known(check, problem->sequences) &&
      problem->shape.max_length > problem->record_tokens) {
    check.fail(kInvalid, "record_k", "has M = " + std::to_string(problem->record_tokens),
               "at least " + std::to_string(problem->shape.max_length) +
                   ", the tokens of the longest sequence");
  }
  check.overlaps();
  check_values(check, *problem);
  return check.take();
}

Status check(const ReplayCommitArgs& args, ReplayProblem* problem) {
  Check check(Op::kReplayCommit);
  Shape& shape = problem->shape;
  shape.op = Op::kReplayCommit;
  check_layout(check, args.state_layout);
  // The records and num_accepted are all that says how large the call is.
  check.shape("record_k", args.record_k, {"slots", "M", "H", "K"});
  check.shape("record_v", args.record_v, {"slots", "M", "HV", "V"});
  check.shape("num_accepted", args.num_accepted, {"N"});
  if (!check.ok()) return check.take();
  shape.heads = args.record_k.shape[2];
  shape.K = args.record_k.shape[3];
  shape.value_heads = args.record_v.shape[2];
  shape.V = args.record_v.shape[3];
  shape.sequences = args.num_accepted.shape[0];
  shape.tokens = 0;
  shape.max_length = 0;
  shape.layout = args.state_layout;
  problem->sequences.count = shape.sequences;
  check_heads(check, "record_k", shape.heads, "record_v", shape.value_heads);
  check.dim("record_k", "K", shape.K);
  check.dim("record_v", "V", shape.V);
  check_slot_tensors(check, args, Access::kRead, problem);
  shape.device = check.device();
  check.overlaps();
  check_values(check, *problem);
  return check.take();
}

}  // namespace gdn
