#include "check/check.h"
#include "check/common.h"

namespace gdn {

Status check(const L2normArgs& args, L2normProblem* problem) {
  Check check(Op::kL2norm);
  check.rank("x", args.x, 1, 4, "[...,D] of 1 to 4 axes");
  if (!check.ok()) return check.take();
  const Extents extents = Extents::of(args.x, args.x.rank);
  check.tensor("x", args.x, extents, DTypes::floats(), Contiguous::kLastAxis, Access::kRead);
  check.tensor("y", args.y, extents, DTypes::floats(), Contiguous::kLastAxis, Access::kWrite);
  const int leading = args.x.rank - 1;
  const int64_t D = args.x.shape[leading];
  if (D < 1) check.fail(StatusCode::kInvalidArgument, "x", "has D = 0", "at least 1");
  check.not_negative("eps", args.eps);
  check.overlaps();
  if (!check.ok()) return check.take();

  Shape& shape = problem->shape;
  shape.op = Op::kL2norm;
  shape.device = check.device();
  shape.dtype = args.x.dtype;
  shape.K = D;
  shape.sequences = leading_axes(args.x, leading, problem->extents);
  shape.tokens = shape.sequences;
  leading_strides(args.x, leading, problem->x_strides);
  leading_strides(args.y, leading, problem->y_strides);
  problem->x = data_of(args.x);
  problem->y = data_of(args.y);
  problem->x_dtype = args.x.dtype;
  problem->y_dtype = args.y.dtype;
  problem->eps = static_cast<float>(args.eps);
  return {};
}

}  // namespace gdn
