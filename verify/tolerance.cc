#include "verify/tolerance.h"

#include <algorithm>

namespace gdn::verify {
namespace {

// float32 products. The token recurrence itself, in float32, is off by up to 2.9e-6 on hard inputs.
constexpr double kF32 = 1e-6;
constexpr double kF32Hard = 4e-6;
// A 16-bit tensor: what rounding the reference costs, and little more.
constexpr double kRoundingFactor = 1.02;
constexpr double kRoundingSlack = 1e-6;
// A copy is the reference rounded; the rest is the order in which errors were summed.
constexpr double kCopyFactor = 1 + 1e-9;
// bfloat16 operands.
constexpr double kBF16Output = 3.5e-3;
constexpr double kBF16State = 3e-3;
constexpr double kBF16Hard = 5e-3;
// Below this many elements one tensor scatters about its mean error: twice the bound.
constexpr int64_t kManyElements = 4096;
constexpr double kFewElementsFactor = 2;

}  // namespace

double error_bound(const Comparand& c) {
  if (c.norm == 0) return 0;
  if (c.quantity == Quantity::kCopy) return kCopyFactor * c.rounding_error;
  if (c.compute == Compute::kBF16) {
    // A 16-bit state is rounded as an output is.
    const bool rounded = c.quantity == Quantity::kOutput || c.dtype != DType::kF32;
    const double relative = c.hard ? kBF16Hard : rounded ? kBF16Output : kBF16State;
    return relative * (c.elements < kManyElements ? kFewElementsFactor : 1) * c.norm;
  }
  if (c.dtype != DType::kF32) return kRoundingFactor * c.rounding_error + kRoundingSlack * c.norm;
  return (c.hard ? kF32Hard : kF32) * c.norm;
}

}  // namespace gdn::verify
