// l2-normalisation in double.
#pragma once

#include <cstdint>

#include "problem.h"

namespace gdn::reference {

// y = x / sqrt(sum x^2 + eps); y may be x.
void l2norm(const double* x, int64_t n, double eps, double* y);

// The operator, for one row of the flattened leading axes. `buffer` has D elements.
void l2norm(const L2normProblem& problem, int64_t row, double* buffer);

}  // namespace gdn::reference
