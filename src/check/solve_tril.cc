#include <string>

#include "check/check.h"
#include "check/common.h"

namespace gdn {
namespace {

constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;

void check_options(Check& check, const SolveTrilArgs& args) {
  const bool neumann = args.method == SolveMethod::kNeumann;
  if (!neumann && args.method != SolveMethod::kExact) {
    check.fail(kInvalid, "method", "is " + std::to_string(static_cast<int>(args.method)),
               "kExact or kNeumann");
  }
  if (neumann) check.at_least("iterations", args.iterations, 1);
  check.compute(args.compute);
  if (args.compute == Compute::kBF16 && !(neumann && args.lower.dtype == DType::kBF16)) {
    check.fail(kInvalid, "compute",
               std::string("is kBF16 with method ") + (neumann ? "kNeumann" : "kExact") +
                   " and dtype " + name_of(args.lower.dtype),
               "it only with kNeumann and bfloat16");
  }
}

}  // namespace

Status check(const SolveTrilArgs& args, SolveTrilProblem* problem) {
  Check check(Op::kSolveTril);
  const TensorView& lower = args.lower;
  check.rank("lower", lower, 2, 5, "[...,n,n] of 2 to 5 axes");
  if (!check.ok()) return check.take();
  const int leading = lower.rank - 2;
  const int64_t n = lower.shape[leading];
  if (n != lower.shape[leading + 1]) {
    check.fail(kInvalid, "lower", "has shape " + shape_text(lower), "square matrices");
  }
  const Extents extents = Extents::of(lower, lower.rank);
  check.tensor("lower", lower, extents, DTypes::floats(), Contiguous::kLastAxis, Access::kRead);
  check.dim("lower", "n", n);
  check.tensor("inverse", args.inverse, extents, DTypes::same_as(lower.dtype, "lower"),
               Contiguous::kLastAxis, Access::kWrite);
  if (args.residual.given()) {
    check.tensor("residual", args.residual, Extents::of(lower, leading), DTypes::f32(),
                 Contiguous::kNone, Access::kWrite);
  }
  check_options(check, args);
  check.overlaps();
  if (!check.ok()) return check.take();

  Shape& shape = problem->shape;
  shape.op = Op::kSolveTril;
  shape.device = check.device();
  shape.dtype = lower.dtype;
  shape.compute = args.compute;
  shape.K = n;
  shape.sequences = leading_axes(lower, leading, problem->extents);
  shape.tokens = shape.sequences * n;
  leading_strides(lower, leading, problem->lower_strides);
  leading_strides(args.inverse, leading, problem->inverse_strides);
  leading_strides(args.residual, leading, problem->residual_strides);
  problem->lower = data_of(lower);
  problem->inverse = data_of(args.inverse);
  problem->residual = data_of(args.residual);
  problem->dtype = lower.dtype;
  problem->lower_row_stride = lower.strides[leading];
  problem->inverse_row_stride = args.inverse.strides[leading];
  problem->method = args.method;
  problem->iterations = args.iterations;
  problem->bf16_steps = args.compute == Compute::kBF16;
  return {};
}

}  // namespace gdn
