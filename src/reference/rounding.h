// The one rounding of the reference: a double straight to the dtype of a tensor, to nearest with
// ties to even. By way of a float it would be two roundings, which differ from one where the first
// lands on a tie of the second.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "gdn/tensor.h"
#include "half.h"

namespace gdn::reference {

// x to a float by "round to odd": exact, or else that neighbour of x whose last bit is set. A float
// has at least two bits more than the 16-bit dtypes over all of their ranges, so the odd bit keeps
// x on its side of every tie, and rounding the result to nearest is rounding x to nearest.
inline float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  if (std::isnan(x) || static_cast<double>(nearest) == x) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(x)) --bits;  // truncate
  return std::bit_cast<float>(bits | 1u);
}

inline void store_rounded(std::byte* p, DType dtype, double x) {
  store_float(p, dtype, dtype == DType::kF32 ? static_cast<float>(x) : round_to_odd(x));
}

// The value that store_rounded() leaves.
inline double rounded(double x, DType dtype) {
  if (dtype == DType::kF32) return static_cast<float>(x);
  return dtype == DType::kBF16 ? bf16_to_float(float_to_bf16(round_to_odd(x)))
                               : f16_to_float(float_to_f16(round_to_odd(x)));
}

}  // namespace gdn::reference
