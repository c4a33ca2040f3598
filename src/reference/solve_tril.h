// The inverse of a unit lower triangular matrix, by either method. Matrices are [n,n], row-major;
// of L only the strictly lower part is read.
#pragma once

#include <cstdint>

#include "problem.h"

namespace gdn::reference {

// Forward substitution: row i of X is e_i - sum_{j<i} L_ij X_j.
void invert_exact(const double* L, int64_t n, double* X);

// Newton's iteration in this form: X <- X - X strict_lower(L X), from X = I. In exact arithmetic
// the error I - X L becomes its own square in every step and is nilpotent, so ceil(log2 n) steps
// suffice. `buffer` is [n,n].
void invert_neumann(const double* L, int64_t n, int64_t iterations, double* X, double* buffer);

// The same as a bfloat16 pipeline does it: X and strict_lower(L X) rounded to bfloat16 in every
// step, products of bfloat16 values summed in float32. L holds bfloat16 values.
void invert_neumann_bf16(const double* L, int64_t n, int64_t iterations, double* X, double* buffer);

// max |strict_lower(L X)|, NaN if any element is.
double residual(const double* L, const double* X, int64_t n);

// The operator, for one matrix; the residual is that of X before it is rounded to the dtype of the
// tensor. `buffer` has 3 n^2 elements.
void solve_tril(const SolveTrilProblem& problem, int64_t matrix, double* buffer);

}  // namespace gdn::reference
