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
  int64_t x_offset = 0, y_offset = 0;
  int64_t rest = row;
  for (int axis = 2; axis >= 0; --axis) {
    const int64_t i = rest % problem.extents[axis];
    rest /= problem.extents[axis];
    x_offset += i * problem.x_strides[axis];
    y_offset += i * problem.y_strides[axis];
  }
  load_row(problem.x + x_offset * size_of(problem.x_dtype), problem.x_dtype, D, buffer);
  l2norm(buffer, D, problem.eps, buffer);
  store_row(buffer, D, problem.y + y_offset * size_of(problem.y_dtype), problem.y_dtype);
}

}  // namespace gdn::reference
