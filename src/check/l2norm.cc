#include "check/check.h"
#include "check/common.h"

namespace gdn {

Status check(const L2normArgs& args, L2normProblem* problem) {
  Check check(Op::kL2norm);
  check.rows("x", args.x);
  if (!check.ok()) return check.take();
  check.tensor("y", args.y, Extents::of(args.x, args.x.rank), DTypes::floats(),
               Contiguous::kLastAxis, Access::kWrite);
  check.not_negative("eps", args.eps);
  check.overlaps();
  if (!check.ok()) return check.take();

  const int leading = args.x.rank - 1;
  Shape& shape = problem->shape;
  shape.op = Op::kL2norm;
  shape.device = check.device();
  shape.dtype = args.x.dtype;
  shape.K = args.x.shape[leading];
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
