// bfloat16 and float16 in plain C++: the one definition of their conversions outside vector code,
// and of "element i of a float tensor of any dtype".
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "gdn/tensor.h"

namespace gdn {

inline float bf16_to_float(uint16_t x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x) << 16);
}

// Rounds to nearest, ties to even; a NaN stays a NaN.
inline uint16_t float_to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline float f16_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  const uint32_t bits = exponent == 31 ? 0x7f800000u | (mantissa << 13)
                                       : ((exponent + 112u) << 23) | (mantissa << 13);
  return std::bit_cast<float>(sign | bits);
}

// Rounds to nearest, ties to even; past 65504 to infinity; a NaN stays a NaN.
inline uint16_t float_to_f16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and up
  if (magnitude < 0x38800000u) {  // subnormal: the hardware rounds in the addition
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// p points to an element of a float dtype.
inline float load_float(const std::byte* p, DType dtype) {
  if (dtype == DType::kF32) {
    float x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  uint16_t h;
  std::memcpy(&h, p, sizeof h);
  return dtype == DType::kBF16 ? bf16_to_float(h) : f16_to_float(h);
}

inline void store_float(std::byte* p, DType dtype, float x) {
  if (dtype == DType::kF32) {
    std::memcpy(p, &x, sizeof x);
    return;
  }
  const uint16_t h = dtype == DType::kBF16 ? float_to_bf16(x) : float_to_f16(x);
  std::memcpy(p, &h, sizeof h);
}

}  // namespace gdn
