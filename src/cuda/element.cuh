// Elements of tensors in registers: loads of any float dtype as floats, stores that round once, and
// the reductions that every kernel is made of. Sums are over fixed lanes in a fixed order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "gdn/tensor.h"

namespace gdn::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}

// Calls body(T()) with the type of a float dtype.
template <class Body>
__host__ __device__ inline auto with_element(DType dtype, const Body& body) {
  if (dtype == DType::kF32) return body(float());
  if (dtype == DType::kBF16) return body(__nv_bfloat16());
  return body(__half());
}

__device__ inline float load_element(const std::byte* p, DType dtype, int64_t i = 0) {
  return with_element(dtype, [&](auto element) {
    return to_float(reinterpret_cast<const decltype(element)*>(p)[i]);
  });
}

// The bits of an element, to become a float later: nothing waits for the load before that. A load
// that is converted on the spot, in a branch on the dtype, is waited for there.
__device__ inline uint32_t load_bits(const std::byte* p, DType dtype, int64_t i = 0) {
  return dtype == DType::kF32 ? reinterpret_cast<const uint32_t*>(p)[i]
                              : uint32_t{reinterpret_cast<const uint16_t*>(p)[i]};
}
__device__ inline float from_bits(uint32_t bits, DType dtype) {
  if (dtype == DType::kF32) return __uint_as_float(bits);
  if (dtype == DType::kBF16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

__device__ inline void store_element(std::byte* p, DType dtype, float x, int64_t i = 0) {
  with_element(dtype, [&](auto element) {
    reinterpret_cast<decltype(element)*>(p)[i] = from_float<decltype(element)>(x);
  });
}

// Two 16-bit elements in a word.
template <class T>
__device__ inline float2 unpack_pair(uint32_t bits) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
  } else {
    return __half22float2(*reinterpret_cast<const __half2*>(&bits));
  }
}
template <class T>
__device__ inline uint32_t pack_pair(float low, float high) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// 16 bytes, and the elements in them.
template <class T>
struct Vector16 {
  static constexpr int kCount = 16 / sizeof(T);
  union {
    uint4 bits;
    T element[kCount];
  };
};

__host__ __device__ inline bool is_aligned(const void* p, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
}

// Count consecutive elements from p, those at `valid` and after it zero. With `vectors`, p is
// aligned to their bytes (16 at most), and valid is Count or zero.
template <class T, int Count>
__device__ inline void load_run(const T* p, int valid, bool vectors, float (&x)[Count]) {
  constexpr int kBytes = Count * static_cast<int>(sizeof(T));
  if (vectors) {
    if (valid <= 0) {
#pragma unroll
      for (int i = 0; i < Count; ++i) x[i] = 0;
      return;
    }
    if constexpr (kBytes >= 16) {
      constexpr int kPart = Vector16<T>::kCount;
#pragma unroll
      for (int part = 0; part < Count / kPart; ++part) {
        Vector16<T> v;
        v.bits = reinterpret_cast<const uint4*>(p)[part];
#pragma unroll
        for (int i = 0; i < kPart; ++i) x[part * kPart + i] = to_float(v.element[i]);
      }
    } else if constexpr (kBytes == 8) {
      union {
        uint2 bits;
        T element[Count];
      } v;
      v.bits = *reinterpret_cast<const uint2*>(p);
#pragma unroll
      for (int i = 0; i < Count; ++i) x[i] = to_float(v.element[i]);
    } else {
#pragma unroll
      for (int i = 0; i < Count; ++i) x[i] = to_float(p[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < Count; ++i) x[i] = i < valid ? to_float(p[i]) : 0.0f;
}

template <class T, int Count>
__device__ inline void store_run(T* p, int valid, bool vectors, const float (&x)[Count]) {
  constexpr int kBytes = Count * static_cast<int>(sizeof(T));
  if (vectors) {
    if (valid <= 0) return;
    if constexpr (kBytes >= 16) {
      constexpr int kPart = Vector16<T>::kCount;
#pragma unroll
      for (int part = 0; part < Count / kPart; ++part) {
        Vector16<T> v;
#pragma unroll
        for (int i = 0; i < kPart; ++i) v.element[i] = from_float<T>(x[part * kPart + i]);
        reinterpret_cast<uint4*>(p)[part] = v.bits;
      }
    } else if constexpr (kBytes == 8) {
      union {
        uint2 bits;
        T element[Count];
      } v;
#pragma unroll
      for (int i = 0; i < Count; ++i) v.element[i] = from_float<T>(x[i]);
      *reinterpret_cast<uint2*>(p) = v.bits;
    } else {
#pragma unroll
      for (int i = 0; i < Count; ++i) p[i] = from_float<T>(x[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    if (i < valid) p[i] = from_float<T>(x[i]);
  }
}

// Count elements to p, which is global memory and aligned to the bytes of all of them, or to 16. An
// instruction for 16 bytes by name: the compiler splits what is assigned in a loop into words.
template <class T, int Count>
__device__ inline void store_whole_run(T* p, const float (&x)[Count]) {
  constexpr int kBytes = Count * static_cast<int>(sizeof(T));
  if constexpr (kBytes < 8) {
#pragma unroll
    for (int i = 0; i < Count; ++i) p[i] = from_float<T>(x[i]);
  } else {
    uint32_t words[kBytes / 4];
#pragma unroll
    for (int i = 0; i < kBytes / 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        words[i] = __float_as_uint(x[i]);
      } else {
        words[i] = pack_pair<T>(x[2 * i], x[2 * i + 1]);
      }
    }
    if constexpr (kBytes == 8) {
      asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(words[0]), "r"(words[1])
                   : "memory");
    }
#pragma unroll
    for (int i = 0; i + 4 <= kBytes / 4; i += 4) {
      asm volatile(
          "st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(reinterpret_cast<uint4*>(p) + i / 4),
          "r"(words[i]), "r"(words[i + 1]), "r"(words[i + 2]), "r"(words[i + 3])
          : "memory");
    }
  }
}

// Four elements from p, as bits; those at `valid` and after it zero.
struct FourElements {
  uint4 bits;  // of floats; of 16-bit elements, two in x and two in y
};
__device__ inline FourElements load_four(const std::byte* row, DType dtype, int at, int valid) {
  FourElements four{};
  if (valid <= 0) return four;
  const std::byte* p = row + at * static_cast<int>(size_of(dtype));
  if (dtype == DType::kF32) {
    if (valid >= 4 && is_aligned(p, 16)) {
      four.bits = *reinterpret_cast<const uint4*>(p);
    } else {
      const auto* x = reinterpret_cast<const uint32_t*>(p);
      four.bits.x = x[0];
      if (valid > 1) four.bits.y = x[1];
      if (valid > 2) four.bits.z = x[2];
      if (valid > 3) four.bits.w = x[3];
    }
    return four;
  }
  if (valid >= 4 && is_aligned(p, 8)) {
    const uint2 bits = *reinterpret_cast<const uint2*>(p);
    four.bits.x = bits.x;
    four.bits.y = bits.y;
  } else {
    const auto* x = reinterpret_cast<const uint16_t*>(p);
    four.bits.x = x[0];
    if (valid > 1) four.bits.x |= uint32_t{x[1]} << 16;
    if (valid > 2) four.bits.y = x[2];
    if (valid > 3) four.bits.y |= uint32_t{x[3]} << 16;
  }
  return four;
}
__device__ inline void to_floats(const FourElements& four, DType dtype, float* x) {
  if (dtype == DType::kF32) {
    x[0] = __uint_as_float(four.bits.x), x[1] = __uint_as_float(four.bits.y);
    x[2] = __uint_as_float(four.bits.z), x[3] = __uint_as_float(four.bits.w);
    return;
  }
  x[0] = from_bits(four.bits.x & 0xffffu, dtype), x[1] = from_bits(four.bits.x >> 16, dtype);
  x[2] = from_bits(four.bits.y & 0xffffu, dtype), x[3] = from_bits(four.bits.y >> 16, dtype);
}

// Of l2norm, from the sum of the squares; of rms_norm_gated, from their mean.
__device__ inline float norm_factor(float squares, float eps) {
  return __frsqrt_rn(__fadd_rn(squares, eps));
}

// The sum over the lanes that differ in the bits of `mask` from one another; all of them get it.
template <int FirstBit, int LastBit>
__device__ inline float sum_over_lanes(float x) {
#pragma unroll
  for (int bit = FirstBit; bit <= LastBit; bit *= 2) x += __shfl_xor_sync(kAllLanes, x, bit);
  return x;
}

}  // namespace gdn::cuda
