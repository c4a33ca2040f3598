// What every kernel of an instruction set builds on: vectors of float, loads and stores of the
// three float dtypes, exp, transposes. Included by all_kernels-inl.h, once per
// target file, inside no namespace.

#include "half.h"
#include "problem.h"

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));

// Calls body(std::integral_constant<int, i>()) for i from 0 to kCount - 1.
template <int kCount, int kFirst = 0, class Body>
HWY_INLINE void for_each_index(const Body& body) {
  if constexpr (kFirst < kCount) {
    body(std::integral_constant<int, kFirst>());
    for_each_index<kCount, kFirst + 1>(body);
  }
}

// Element types of tensors in memory.
using bf16 = hwy::bfloat16_t;
using f16 = hwy::float16_t;
template <class T>
constexpr DType dtype_of = sizeof(T) == 4            ? DType::kF32
                           : std::is_same_v<T, bf16> ? DType::kBF16
                                                     : DType::kF16;

// Calls body(T()) with the element type of a float dtype.
template <class Body>
HWY_INLINE void with_element(DType dtype, const Body& body) {
  if (dtype == DType::kF32) {
    body(float());
  } else if (dtype == DType::kBF16) {
    body(bf16());
  } else {
    body(f16());
  }
}

// kLanes elements as floats; p needs the alignment of an element only.
HWY_INLINE Vec load(const float* p) { return hn::LoadU(F32(), p); }
HWY_INLINE Vec load(const bf16* p) {
  return hn::PromoteTo(F32(), hn::LoadU(hn::Rebind<bf16, F32>(), p));
}
HWY_INLINE Vec load(const f16* p) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(F32(), load_float(reinterpret_cast<const std::byte*>(p), DType::kF16));
#else
  return hn::PromoteTo(F32(), hn::LoadU(hn::Rebind<f16, F32>(), p));
#endif
}

// The upper halves of the lanes hold x rounded to bfloat16, to nearest with ties to even; a NaN
// stays one. (Highway 1.0's own demotion truncates.)
HWY_INLINE hn::Vec<hn::RebindToUnsigned<F32>> round_to_bf16(Vec x) {
  const hn::RebindToUnsigned<F32> u32;
  const auto bits = hn::BitCast(u32, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(u32, 1));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(u32, 0x7fff)), odd);
  const auto quiet = hn::Or(bits, hn::Set(u32, 0x400000));
  const auto is_nan = hn::RebindMask(u32, hn::IsNaN(x));
  return hn::And(hn::IfThenElse(is_nan, quiet, rounded), hn::Set(u32, 0xffff0000u));
}

HWY_INLINE void store(Vec x, float* p) { hn::StoreU(x, F32(), p); }
// kLanes bfloat16 numbers, rounded so.
HWY_INLINE auto to_bf16(Vec x) {
  const hn::Rebind<uint16_t, F32> u16;
#if defined(GDN_ISA_HAS_BF16_DOT)
  // In one instruction; flushes denormals, as all of a task's arithmetic does.
  return hn::Vec<decltype(u16)>{reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.raw))};
#else
  return hn::TruncateTo(u16, hn::ShiftRight<16>(round_to_bf16(x)));
#endif
}

HWY_INLINE void store(Vec x, bf16* p) {
  hn::StoreU(to_bf16(x), hn::Rebind<uint16_t, F32>(), reinterpret_cast<uint16_t*>(p));
}
HWY_INLINE void store(Vec x, f16* p) {
#if HWY_TARGET == HWY_SCALAR
  store_float(reinterpret_cast<std::byte*>(p), DType::kF16, hn::GetLane(x));
#else
  hn::StoreU(hn::DemoteTo(hn::Rebind<f16, F32>(), x), hn::Rebind<f16, F32>(), p);
#endif
}

// The line of p, as one that will be written.
HWY_INLINE void prefetch_for_write(const void* p) {
#if defined(__x86_64__) && HWY_TARGET != HWY_SCALAR
  // Every processor with AVX2 has it; the compiler wants a flag to emit it.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p)));
#else
  __builtin_prefetch(p, 1);
#endif
}

// Past the caches; p is aligned to the vector. FlushStream() before another thread reads it.
HWY_INLINE void stream(Vec x, float* p) { hn::Stream(x, F32(), p); }
HWY_INLINE void stream(Vec x, bf16* p) {
  hn::Stream(to_bf16(x), hn::Rebind<uint16_t, F32>(), reinterpret_cast<uint16_t*>(p));
}
HWY_INLINE void stream(Vec x, f16* p) { store(x, p); }

// Consecutive vectors to one row of memory, two bfloat16 ones in one store: half as many, each a
// whole cache line with 16 lanes.
template <bool kPastCaches, int kN, class T>
HWY_INLINE void store_vectors(const Vec (&x)[kN], T* p) {
#pragma GCC unroll 16
  for (int j = 0; j < kN; ++j) {
    if constexpr (kPastCaches) {
      stream(x[j], p + j * kLanes);
    } else {
      store(x[j], p + j * kLanes);
    }
  }
}
#if HWY_TARGET != HWY_SCALAR
template <bool kPastCaches, int kN>
HWY_INLINE void store_vectors(const Vec (&x)[kN], bf16* p) {
  static_assert(kN % 2 == 0);
  const hn::Repartition<uint16_t, F32> u16;
  auto* to = reinterpret_cast<uint16_t*>(p);
#pragma GCC unroll 16
  for (int j = 0; j < kN; j += 2) {
#if defined(GDN_ISA_HAS_BF16_DOT)
    // One conversion, which takes as long as that of a single vector.
    const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(x[j + 1].raw, x[j].raw));
    const hn::Vec<decltype(u16)> pair{both};
#else
    const auto pair = hn::Combine(u16, to_bf16(x[j + 1]), to_bf16(x[j]));
#endif
    if constexpr (kPastCaches) {
      hn::Stream(pair, u16, to + j * kLanes);
    } else {
      hn::StoreU(pair, u16, to + j * kLanes);
    }
  }
}
#endif

// Whether an output of chunk, causal_conv1d or rms_norm_gated is stored past the caches: one
// threshold for the three, whose outputs are alike in size. What is overwritten need not be fetched
// then, from a cache that other cores have filled: of prefill that is worth a tenth from 4 MB on,
// and still 3 to 11 % when everything is read again at once, from memory; with 2 MB and less it is
// level. Alone on the machine, 4 to 16 MB, the convolution gains 2 to 9 % (- 1 and more when read
// again) and the norm up to 2.5 (- 2 to 0).
constexpr int64_t kStreamBytes = 4 << 20;
inline bool stores_past_caches(const TokenTensor& out, int64_t elements) {
  const int64_t size = size_of(out.dtype);
  // Unsigned: the stride of an axis of one element may be anything.
  const auto aligned = [&](int64_t stride) {
    return static_cast<uint64_t>(stride) * static_cast<uint64_t>(size) % 64 == 0;
  };
  return elements * size >= kStreamBytes && reinterpret_cast<uintptr_t>(out.data) % 64 == 0 &&
         aligned(out.batch_stride) && aligned(out.token_stride) && aligned(out.head_stride);
}

// The first n < kLanes elements, zeros after them; nothing past them is read or written.
template <class T>
HWY_INLINE Vec load_n(const T* p, int64_t n) {
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof(T));
  return load(buffer);
}
template <class T>
HWY_INLINE void store_n(Vec x, T* p, int64_t n) {
  T buffer[kLanes];
  store(x, buffer);
  std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
}

// n elements of any float dtype to floats and back.
template <class T>
HWY_INLINE void load_row(const T* p, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(load(p + i), to + i);
  if (i < n) store_n(load_n(p + i, n - i), to + i, n - i);
}
template <class T>
HWY_INLINE void store_row(const float* from, int64_t n, T* p) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(load(from + i), p + i);
  if (i < n) store_n(load_n(from + i, n - i), p + i, n - i);
}

// e^x within an ulp, for x in this range alone. Outside of it, NaN included, anything comes out.
constexpr float kExpMin = -87.3365f, kExpMax = 88.7228f;
HWY_INLINE Vec exp_in_range(Vec x) {
  const F32 d;
  const hn::RebindToUnsigned<F32> u32;
  // x = n ln 2 + r. The sum rounds to an integer, which it leaves in its low bits; ln 2 is split so
  // that the first product is exact.
  const Vec shift = hn::Set(d, 0x1.8p23f);
  const Vec sum = hn::MulAdd(x, hn::Set(d, 1.44269504f), shift);
  const Vec n = hn::Sub(sum, shift);
  Vec r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  // 1 + r + r^2 (...), interpolated at the Chebyshev nodes of |r| <= ln 2 / 2: right to 1.1e-8.
  Vec y = hn::Set(d, 1.392619102e-3f);
  y = hn::MulAdd(y, r, hn::Set(d, 8.363185450e-3f));
  y = hn::MulAdd(y, r, hn::Set(d, 4.166655615e-2f));
  y = hn::MulAdd(y, r, hn::Set(d, 1.666657627e-1f));
  y = hn::MulAdd(y, r, hn::Set(d, 0.5f));
  y = hn::MulAdd(y, r, hn::Set(d, 1.0f));
  y = hn::MulAdd(y, r, hn::Set(d, 1.0f));
  // Times 2^n: n to the exponent.
  return hn::BitCast(d, hn::Add(hn::BitCast(u32, y), hn::ShiftLeft<23>(hn::BitCast(u32, sum))));
}

// Within an ulp of e^x; underflows to 0, overflows to infinity, NaN passes through. (Highway's Exp
// gives 0 for a NaN and has no upper end.)
HWY_INLINE Vec exp(Vec x) {
  const F32 d;
  const Vec low = hn::Set(d, kExpMin), high = hn::Set(d, kExpMax);
  Vec y = exp_in_range(hn::Min(hn::Max(x, low), high));
  y = hn::IfThenElse(hn::Gt(x, high), hn::Inf(d), y);
  y = hn::IfThenElse(hn::Lt(x, low), hn::Zero(d), y);
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

#if HWY_TARGET != HWY_SCALAR
// Transposes the kLanes x kLanes matrix of the rows: 4 x 4 inside the 128-bit blocks, then the
// blocks.
HWY_INLINE void transpose_square(Vec (&row)[kLanes]) {
  const F32 d;
  const hn::RepartitionToWide<F32> pairs;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 4) {
    const auto a = hn::BitCast(pairs, hn::InterleaveLower(d, row[i], row[i + 1]));
    const auto b = hn::BitCast(pairs, hn::InterleaveUpper(d, row[i], row[i + 1]));
    const auto e = hn::BitCast(pairs, hn::InterleaveLower(d, row[i + 2], row[i + 3]));
    const auto f = hn::BitCast(pairs, hn::InterleaveUpper(d, row[i + 2], row[i + 3]));
    row[i] = hn::BitCast(d, hn::InterleaveLower(pairs, a, e));
    row[i + 1] = hn::BitCast(d, hn::InterleaveUpper(pairs, a, e));
    row[i + 2] = hn::BitCast(d, hn::InterleaveLower(pairs, b, f));
    row[i + 3] = hn::BitCast(d, hn::InterleaveUpper(pairs, b, f));
  }
#if HWY_TARGET == HWY_AVX3
#pragma GCC unroll 16
  for (int i = 0; i < 8; ++i) {  // blocks of rows i and i + 8: halves
    const Vec a = row[i], b = row[i + 8];
    row[i] = hn::ConcatLowerLower(d, b, a);
    row[i + 8] = hn::ConcatUpperUpper(d, b, a);
  }
#pragma GCC unroll 16
  for (int half = 0; half < 16; half += 8) {
#pragma GCC unroll 16
    for (int i = half; i < half + 4; ++i) {  // rows i and i + 4: odd and even blocks
      const Vec a = row[i], b = row[i + 4];
      row[i] = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(b), a);
      row[i + 4] = hn::OddEvenBlocks(b, hn::SwapAdjacentBlocks(a));
    }
  }
#elif HWY_TARGET == HWY_AVX2
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    const Vec a = row[i], b = row[i + 4];
    row[i] = hn::ConcatLowerLower(d, b, a);
    row[i + 4] = hn::ConcatUpperUpper(d, b, a);
  }
#else
  static_assert(kLanes == 4);
#endif
}
#endif

// to[c][r] = from[r][c]; no overlap.
inline void transpose(const float* HWY_RESTRICT from, int64_t from_stride, int64_t rows,
                      int64_t columns, float* HWY_RESTRICT to, int64_t to_stride) {
#if HWY_TARGET == HWY_SCALAR
  const int64_t square_rows = 0, square_columns = 0;
#else
  const int64_t square_rows = rows / kLanes * kLanes, square_columns = columns / kLanes * kLanes;
  for (int64_t r = 0; r < square_rows; r += kLanes) {
    for (int64_t c = 0; c < square_columns; c += kLanes) {
      Vec row[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) row[i] = load(from + (r + i) * from_stride + c);
      transpose_square(row);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(row[i], to + (c + i) * to_stride + r);
    }
  }
#endif
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = r < square_rows ? square_columns : 0; c < columns; ++c) {
      to[c * to_stride + r] = from[r * from_stride + c];
    }
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
