// Division by a number that is known when a kernel is launched: a product and a shift where the GPU
// would take twenty instructions, or a hundred for 64 bits.
#pragma once

#include <cstdint>

namespace gdn::cuda {

// Granlund and Montgomery: Division by Invariant Integers using Multiplication (1994), figure 4.1.
struct Divisor {
  uint32_t value = 1, multiplier = 1;
  int shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t divisor)  // what is no number of 32 bits: of a grid of no blocks
      : value(divisor > 0 && divisor <= UINT32_MAX ? static_cast<uint32_t>(divisor) : 1) {
    while ((uint64_t{1} << shift) < value) ++shift;
    multiplier =
        static_cast<uint32_t>((uint64_t{1} << 32) * ((uint64_t{1} << shift) - value) / value + 1);
  }
  // Of a number below 2^31.
  __device__ __forceinline__ uint32_t divide(uint32_t x) const {
    return (__umulhi(x, multiplier) + x) >> shift;
  }
  // Of any, for two instructions more.
  __device__ __forceinline__ uint32_t divide_any(uint32_t x) const {
    return static_cast<uint32_t>((uint64_t{__umulhi(x, multiplier)} + x) >> shift);
  }
};

}  // namespace gdn::cuda
