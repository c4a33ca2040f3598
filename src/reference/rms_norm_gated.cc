#include "reference/rms_norm_gated.h"

#include <cmath>

#include "reference/gating.h"
#include "reference/tensor_io.h"
#include "reference/vector.h"

namespace gdn::reference {

void rms_norm_gated(const double* x, const double* z, const double* weight, int64_t n, double eps,
                    double* y) {
  const double rms = std::sqrt(dot(x, x, n) / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] / rms * weight[i] * silu(z[i]);
}

void rms_norm_gated(const RmsNormGatedProblem& problem, int64_t row, double* buffer) {
  const int64_t D = problem.shape.K;
  const int64_t element = size_of(problem.dtype);
  double* x = buffer;
  double* z = x + D;
  double* weight = z + D;
  load_row(problem.x + row_offset(problem.extents, problem.x_strides, row) * element, problem.dtype,
           D, x);
  load_row(problem.z + row_offset(problem.extents, problem.z_strides, row) * element, problem.dtype,
           D, z);
  for (int64_t i = 0; i < D; ++i) {
    weight[i] = load_float(problem.weight.at(i), problem.weight.dtype);
  }
  rms_norm_gated(x, z, weight, D, problem.eps, x);
  store_row(
      x, D,
      problem.y + row_offset(problem.extents, problem.y_strides, row) * size_of(problem.y_dtype),
      problem.y_dtype);
}

}  // namespace gdn::reference
