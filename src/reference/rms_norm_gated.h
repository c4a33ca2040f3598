// The gated norm at the end of a layer, in double.
#pragma once

#include <cstdint>

#include "problem.h"

namespace gdn::reference {

// y = x / sqrt(mean x^2 + eps) * weight * silu(z); y may be x or z.
void rms_norm_gated(const double* x, const double* z, const double* weight, int64_t n, double eps,
                    double* y);

// The operator, for one row of the flattened leading axes. `buffer` has 3 D elements.
void rms_norm_gated(const RmsNormGatedProblem& problem, int64_t row, double* buffer);

}  // namespace gdn::reference
