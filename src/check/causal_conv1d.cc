#include <string>

#include "check/check.h"
#include "check/common.h"
#include "check/sequences.h"
#include "check/slots.h"

namespace gdn {
namespace {

constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;
constexpr int64_t kMaxWidth = 8;  // the history stays in registers

// x, weight, bias and y.
void check_tokens(Check& check, const CausalConv1dArgs& args, CausalConv1dProblem* problem) {
  const Extents extents = Extents::of(args.x, 3);
  check.tensor("x", args.x, {"B", "T", "D"}, DTypes::floats(), Contiguous::kLastAxis,
               Access::kRead);
  if (!check.ok()) return;
  const int64_t B = args.x.shape[0], T = args.x.shape[1], D = args.x.shape[2];
  if (D < 1) return check.fail(kInvalid, "x", "has D = 0", "at least 1");
  check.tensor("weight", args.weight, {D, "W"}, DTypes::floats(), Contiguous::kNone, Access::kRead);
  if (!check.ok()) return;
  const int64_t W = args.weight.shape[1];
  if (W < 1 || W > kMaxWidth) {
    check.fail(W < 1 ? kInvalid : StatusCode::kUnsupported, "weight",
               "has W = " + std::to_string(W), "1 to " + std::to_string(kMaxWidth));
  }
  if (args.bias.given()) {
    check.tensor("bias", args.bias, {D}, DTypes::floats(), Contiguous::kNone, Access::kRead);
  }
  check.tensor("y", args.y, extents, DTypes::same_as(args.x.dtype, "x"), Contiguous::kLastAxis,
               Access::kWrite);
  if (!check.ok()) return;
  Shape& shape = problem->shape;
  shape.dtype = args.x.dtype;
  shape.heads = shape.value_heads = 1;
  shape.K = W;
  shape.V = D;
  check_sequences(check, args.cu_seqlens, B, T, &problem->sequences, &shape);
  problem->x = token_tensor(args.x);
  problem->y = token_tensor(args.y);
  problem->weight = {data_of(args.weight), args.weight.dtype, args.weight.strides[0],
                     args.weight.strides[1]};
  problem->bias = float_vector(args.bias);
  problem->silu = args.silu;
}

ChannelStates channel_states(const TensorView& view) {
  if (!view.given()) return {};
  return {data_of(view),   view.dtype,      view.shape[0],
          view.strides[0], view.strides[1], view.strides[2]};
}

}  // namespace

Status check(const CausalConv1dArgs& args, CausalConv1dProblem* problem) {
  Check check(Op::kCausalConv1d);
  Shape& shape = problem->shape;
  shape.op = Op::kCausalConv1d;
  check_tokens(check, args, problem);
  // S is that of the first state given.
  bool known = false;
  check_states(
      check, args, Accepted::kColumnsOrOneSlot, problem,
      [&](const char* name, const TensorView& view, const Extent& slots, Access access) {
        const Extent S = known ? Extent(shape.state_length) : Extent("S");
        check.tensor(name, view, {slots, shape.V, S}, DTypes::floats(), Contiguous::kNone, access);
        if (!check.ok()) return;
        known = true;
        shape.state_length = view.shape[2];
        if (shape.state_length < shape.K - 1) {
          check.fail(kInvalid, name, "has S = " + std::to_string(shape.state_length),
                     "at least W - 1 = " + std::to_string(shape.K - 1));
        }
      });
  if (!check.ok()) return check.take();
  const StateArgs states = StateArgs::of(args);
  if (states.one_slot() && lengths_known(check, problem->sequences)) {
    const int64_t least = shape.K - 2 + shape.max_length;
    if (shape.state_length < least) {
      check.fail(kInvalid, "initial_state", "has S = " + std::to_string(shape.state_length),
                 "at least " + std::to_string(least) +
                     ", W - 2 and the tokens of the longest sequence, with num_accepted");
    }
  }
  check.overlaps();
  if (!check.ok()) return check.take();
  problem->initial_state = channel_states(args.initial_state);
  if (states.stores()) problem->final_state = channel_states(args.final_state);
  check_slots(check, *problem);
  return check.take();
}

}  // namespace gdn
