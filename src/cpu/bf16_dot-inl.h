// Products of bfloat16 pairs with float accumulation, through intrinsics: Highway 1.0 has none. A
// pair is a 32-bit word, its lower half the element of lower index.
#include <immintrin.h>

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

HWY_INLINE Vec dot_pairs(Vec sum, __m512i a, __m512i b) {
  return Vec{
      _mm512_dpbf16_ps(sum.raw, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b))};
}

// Lane i: the pair (low[i], high[i]), each rounded to nearest even.
HWY_INLINE __m512i make_pairs(Vec low, Vec high) {
  const __m512i interleave =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                       21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const auto packed = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.raw, low.raw));
  return _mm512_permutexvar_epi16(interleave, packed);
}

// The same of floats that are bfloat16 numbers.
HWY_INLINE __m512i pairs_of_bf16(Vec low, Vec high) {
  return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(low.raw), 16),
                         _mm512_castps_si512(high.raw));
}

// x rounded to bfloat16, as floats: to nearest with ties away from zero, in two steps, where the
// conversion and its way back take three times as long. A NaN stays one if its lower half is zero.
HWY_INLINE Vec nearest_bf16(Vec x) {
  const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(-0x10000);
  const __m512i sum = _mm512_add_epi32(_mm512_castps_si512(x.raw), half);
  return Vec{_mm512_castsi512_ps(_mm512_and_si512(sum, upper))};
}

// As make_pairs, of numbers rounded in that way, to their two halves: three operations, on a core
// with two vector ports a cycle and a half, where conversion and permutation take three.
HWY_INLINE __m512i nearest_pairs(Vec low, Vec high) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i low_sum = _mm512_add_epi32(_mm512_castps_si512(low.raw), half);
  const __m512i high_sum = _mm512_add_epi32(_mm512_castps_si512(high.raw), half);
  const __m512i to_low = _mm512_broadcast_i32x4(
      _mm_set_epi8(-1, -1, 15, 14, -1, -1, 11, 10, -1, -1, 7, 6, -1, -1, 3, 2));
  return _mm512_mask_shuffle_epi8(high_sum, 0x3333333333333333u, low_sum, to_low);
}
HWY_INLINE __m256i nearest_bf16_words(Vec x) {
  const __m512i sum = _mm512_add_epi32(_mm512_castps_si512(x.raw), _mm512_set1_epi32(0x8000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(sum, 16));
}

// As add_product (tile-inl.h), over pairs: tile[r][:] += sum over i < count of
// a[r * kRowStride + i * step] . b[i * b_stride + :].
template <int kRowStride, int kR, int kN>
HWY_INLINE void add_pair_product(Tile<kR, kN>& tile, const uint32_t* HWY_RESTRICT a, int64_t step,
                                 const uint32_t* HWY_RESTRICT b, int64_t b_stride, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    __m512i vectors[kN];
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) vectors[j] = _mm512_loadu_si512(b + j * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(a[r * kRowStride]));
#pragma GCC unroll 16
      for (int j = 0; j < kN; ++j) tile.at[r][j] = dot_pairs(tile.at[r][j], x, vectors[j]);
    }
    a += step;
    b += b_stride;
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
