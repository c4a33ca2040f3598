#include <string>

#include "check/check.h"
#include "check/delta_rule.h"
#include "check/slots.h"

namespace gdn {
namespace {

constexpr int64_t kCheckpointUnit = 64;  // every kernel's chunk divides it

void check_checkpoints(Check& check, const ChunkArgs& args, DeltaRuleProblem* problem) {
  const int64_t every = args.checkpoint_every;
  if (every < 0 || every % kCheckpointUnit != 0) {
    check.fail(StatusCode::kInvalidArgument, "checkpoint_every", "is " + std::to_string(every),
               "0 or a positive multiple of 64");
  }
  if (every == 0) {
    check.not_given("checkpoints", args.checkpoints, "it only with checkpoint_every > 0");
    check.not_given("checkpoint_cu", args.checkpoint_cu, "it only with checkpoint_every > 0");
    return;
  }
  check.given_with("checkpoints", args.checkpoints, "checkpoint_every > 0");
  check.given_with("checkpoint_cu", args.checkpoint_cu, "checkpoint_every > 0");
  check_state(check, "checkpoints", args.checkpoints, "M", problem->shape, Access::kWrite);
  check.index_tensor("checkpoint_cu", args.checkpoint_cu, {problem->sequences.count + 1});
  if (!check.ok()) return;
  problem->checkpoint_every = every;
  problem->checkpoints = slot_tensor(args.checkpoints);
  problem->checkpoint_cu = index_tensor(args.checkpoint_cu);
}

void check_checkpoint_rows(Check& check, const DeltaRuleProblem& problem) {
  if (!check.can_read_values() || problem.checkpoint_every == 0) return;
  int64_t rows = 0;
  for (int64_t n = 0; n <= problem.sequences.count; ++n) {
    if (n > 0) rows += problem.sequences.at(n - 1).length / problem.checkpoint_every;
    if (problem.checkpoint_cu.at(n) != rows) {
      return check.fail(StatusCode::kOutOfRange, element_text("checkpoint_cu", n),
                        "is " + std::to_string(problem.checkpoint_cu.at(n)),
                        std::to_string(rows) + ", the checkpoints of the sequences before");
    }
  }
  if (rows > problem.checkpoints.slots) {
    check.fail(StatusCode::kInvalidArgument, "checkpoints",
               "has M = " + std::to_string(problem.checkpoints.slots),
               "at least " + std::to_string(rows));
  }
}

}  // namespace

Status check(const ChunkArgs& args, DeltaRuleProblem* problem) {
  Check check(Op::kChunk);
  problem->shape.op = Op::kChunk;
  check_delta_rule(check, args, problem);
  check.at_least("chunk_size", args.chunk_size, 1);
  problem->shape.chunk_size = args.chunk_size;
  check.context_split(args.context_split);
  problem->shape.context_split = args.context_split;
  check_checkpoints(check, args, problem);
  check.overlaps();
  check_slots(check, *problem);
  check_checkpoint_rows(check, *problem);
  return check.take();
}

}  // namespace gdn
