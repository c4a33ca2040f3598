// A shape that no argument struct stands behind: what plan() would find in one is found here.
#include <string>

#include "check/check.h"
#include "check/common.h"

namespace gdn {

Status check(const Shape& shape) {
  if (shape.op > Op::kCausalConv1d) {
    return {StatusCode::kInvalidArgument,
            "gdn.plan: op is " + std::to_string(static_cast<int>(shape.op)) + ", expected an Op"};
  }
  Check check(shape.op);
  check.at_least("sequences", shape.sequences, 0);
  check.at_least("tokens", shape.tokens, 0);
  check.at_least("max_length", shape.max_length, 0);
  check.at_least("heads", shape.heads, 1);
  check.at_least("value_heads", shape.value_heads, 1);
  check.at_least("K", shape.K, 1);
  check.at_least("V", shape.V, 1);
  check.at_least("state_length", shape.state_length, 0);
  check.at_least("chunk_size", shape.chunk_size, 1);
  check.compute(shape.compute);
  check.context_split(shape.context_split);
  const bool has_heads = shape.op == Op::kChunk || shape.op == Op::kRecurrent ||
                         shape.op == Op::kReplayVerify || shape.op == Op::kReplayCommit;
  if (has_heads) {
    if (check.ok() && shape.value_heads % shape.heads != 0) {
      check.fail(StatusCode::kInvalidArgument, "value_heads",
                 "is " + std::to_string(shape.value_heads),
                 "a multiple of heads = " + std::to_string(shape.heads));
    }
    check.dim("shape", "K", shape.K);
    check.dim("shape", "V", shape.V);
  }
  if (shape.op == Op::kSolveTril) check.dim("shape", "n", shape.K);
  return check.take();
}

}  // namespace gdn
