#include "reference/solve_tril.h"

#include <algorithm>
#include <cmath>

#include "reference/rounding.h"
#include "reference/tensor_io.h"
#include "reference/vector.h"

namespace gdn::reference {
namespace {

void set_identity(int64_t n, double* X) {
  std::fill_n(X, n * n, 0.0);
  for (int64_t i = 0; i < n; ++i) X[i * n + i] = 1.0;
}

// Row i of L X left of the diagonal, to row [i]; L has a unit diagonal, X is lower triangular.
void strict_row_of_product(const double* L, const double* X, int64_t n, int64_t i, double* row) {
  std::copy_n(X + i * n, i, row);
  for (int64_t j = 0; j < i; ++j) add_scaled(L[i * n + j], X + j * n, j + 1, row);
}

// The same in float32, which the products of bfloat16 values are summed in, term by term.
float strict_element_in_float(const double* L, const double* X, int64_t n, int64_t i, int64_t j) {
  float sum = 0;
  for (int64_t m = j; m < i; ++m) {
    sum += static_cast<float>(L[i * n + m]) * static_cast<float>(X[m * n + j]);
  }
  return sum + static_cast<float>(X[i * n + j]);
}

}  // namespace

void invert_exact(const double* L, int64_t n, double* X) {
  set_identity(n, X);
  for (int64_t i = 1; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) add_scaled(-L[i * n + j], X + j * n, j + 1, X + i * n);
  }
}

void invert_neumann(const double* L, int64_t n, int64_t iterations, double* X, double* buffer) {
  set_identity(n, X);
  double* P = buffer;  // strict_lower(L X)
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    for (int64_t i = 0; i < n; ++i) strict_row_of_product(L, X, n, i, P + i * n);
    // X - X P row by row, from the left: row i of X P needs of X that row alone, and its element j
    // the elements after j.
    for (int64_t i = 0; i < n; ++i) {
      double* row = X + i * n;
      for (int64_t j = 0; j < i; ++j) {
        double update = 0;
        for (int64_t m = j + 1; m <= i; ++m) update += row[m] * P[m * n + j];
        row[j] -= update;
      }
    }
  }
}

void invert_neumann_bf16(const double* L, int64_t n, int64_t iterations, double* X,
                         double* buffer) {
  set_identity(n, X);
  double* P = buffer;
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        P[i * n + j] = rounded(strict_element_in_float(L, X, n, i, j), DType::kBF16);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      double* row = X + i * n;
      for (int64_t j = 0; j < i; ++j) {
        float update = 0;
        for (int64_t m = j + 1; m <= i; ++m) {
          update += static_cast<float>(row[m]) * static_cast<float>(P[m * n + j]);
        }
        row[j] = rounded(static_cast<float>(row[j]) - update, DType::kBF16);
      }
    }
  }
}

double residual(const double* L, const double* X, int64_t n) {
  double largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      double sum = X[i * n + j];
      for (int64_t m = j; m < i; ++m) sum += L[i * n + m] * X[m * n + j];
      if (std::fabs(sum) > largest || std::isnan(sum)) largest = std::fabs(sum);
    }
  }
  return largest;
}

void solve_tril(const SolveTrilProblem& problem, int64_t matrix, double* buffer) {
  const int64_t n = problem.shape.K;
  const int64_t lower_offset = row_offset(problem.extents, problem.lower_strides, matrix);
  const int64_t inverse_offset = row_offset(problem.extents, problem.inverse_strides, matrix);
  const int64_t residual_offset = row_offset(problem.extents, problem.residual_strides, matrix);
  const int64_t element = size_of(problem.dtype);
  double* L = buffer;
  double* X = L + n * n;
  double* work = X + n * n;
  for (int64_t i = 0; i < n; ++i) {
    load_row(problem.lower + (lower_offset + i * problem.lower_row_stride) * element, problem.dtype,
             i, L + i * n);
  }
  if (problem.method == SolveMethod::kExact) {
    invert_exact(L, n, X);
  } else if (problem.bf16_steps) {
    invert_neumann_bf16(L, n, problem.iterations, X, work);
  } else {
    invert_neumann(L, n, problem.iterations, X, work);
  }
  for (int64_t i = 0; i < n; ++i) {
    store_row(X + i * n, n,
              problem.inverse + (inverse_offset + i * problem.inverse_row_stride) * element,
              problem.dtype);
  }
  if (problem.residual) {
    store_rounded(problem.residual + residual_offset * size_of(DType::kF32), DType::kF32,
                  residual(L, X, n));
  }
}

}  // namespace gdn::reference
