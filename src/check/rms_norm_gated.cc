#include "check/check.h"
#include "check/common.h"

namespace gdn {

Status check(const RmsNormGatedArgs& args, RmsNormGatedProblem* problem) {
  Check check(Op::kRmsNormGated);
  check.rows("x", args.x);
  if (!check.ok()) return check.take();
  const int leading = args.x.rank - 1;
  const int64_t D = args.x.shape[leading];
  const Extents extents = Extents::of(args.x, args.x.rank);
  check.tensor("z", args.z, extents, DTypes::same_as(args.x.dtype, "x"), Contiguous::kLastAxis,
               Access::kRead);
  check.tensor("weight", args.weight, {D}, DTypes::floats(), Contiguous::kNone, Access::kRead);
  check.tensor("y", args.y, extents, DTypes::floats(), Contiguous::kLastAxis, Access::kWrite);
  check.not_negative("eps", args.eps);
  check.overlaps();
  if (!check.ok()) return check.take();

  Shape& shape = problem->shape;
  shape.op = Op::kRmsNormGated;
  shape.device = check.device();
  shape.dtype = args.x.dtype;
  shape.K = D;
  shape.sequences = leading_axes(args.x, leading, problem->extents);
  shape.tokens = shape.sequences;
  leading_strides(args.x, leading, problem->x_strides);
  leading_strides(args.z, leading, problem->z_strides);
  leading_strides(args.y, leading, problem->y_strides);
  problem->x = data_of(args.x);
  problem->z = data_of(args.z);
  problem->y = data_of(args.y);
  problem->weight = float_vector(args.weight);
  problem->dtype = args.x.dtype;
  problem->y_dtype = args.y.dtype;
  problem->eps = static_cast<float>(args.eps);
  return {};
}

}  // namespace gdn
