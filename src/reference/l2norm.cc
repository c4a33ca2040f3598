#include "reference/l2norm.h"

#include <cmath>

#include "reference/tensor_io.h"
#include "reference/vector.h"

namespace gdn::reference {

void l2norm(const double* x, int64_t n, double eps, double* y) {
  const double norm = std::sqrt(dot(x, x, n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] / norm;
}

void l2norm(const L2normProblem& problem, int64_t row, double* buffer) {
  const int64_t D = problem.shape.K;
  const int64_t x_offset = row_offset(problem.extents, problem.x_strides, row);
  const int64_t y_offset = row_offset(problem.extents, problem.y_strides, row);
  load_row(problem.x + x_offset * size_of(problem.x_dtype), problem.x_dtype, D, buffer);
  l2norm(buffer, D, problem.eps, buffer);
  store_row(buffer, D, problem.y + y_offset * size_of(problem.y_dtype), problem.y_dtype);
}

}  // namespace gdn::reference
