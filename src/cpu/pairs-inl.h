// Rows of bfloat16 as pairs: two vectors of float at a time, of the even elements and of the odd
// ones, which takes a shift and a mask where the natural order takes a conversion a vector.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

constexpr int kPairLanes = 2 * kLanes;

// Elements of a row of n that are taken in pairs of vectors; the rest stays in its natural order.
constexpr int64_t paired(int64_t n) { return n / kPairLanes * kPairLanes; }

HWY_INLINE void load_pairs(const bf16* p, Vec& even, Vec& odd) {
  const F32 d;
  const hn::RebindToUnsigned<F32> u32;
  const auto both = hn::LoadU(u32, reinterpret_cast<const uint32_t*>(p));
  even = hn::BitCast(d, hn::ShiftLeft<16>(both));
  odd = hn::BitCast(d, hn::And(both, hn::Set(u32, 0xffff0000u)));
}

// Each rounded to nearest even.
HWY_INLINE void store_pairs(Vec even, Vec odd, bf16* p) {
#if defined(GDN_ISA_HAS_BF16_DOT)
  _mm512_storeu_si512(p, make_pairs(even, odd));
#else
  const hn::RebindToUnsigned<F32> u32;
  const auto low = hn::ShiftRight<16>(round_to_bf16(even));
  hn::StoreU(hn::Or(low, round_to_bf16(odd)), u32, reinterpret_cast<uint32_t*>(p));
#endif
}

// A row of floats in the order that load_pairs gives for rows of n elements: of every kPairLanes of
// them the even ones, then the odd ones. What pads the row stays behind it.
HWY_INLINE void to_pair_order(const float* from, [[maybe_unused]] int64_t n, int64_t padded_n,
                              float* to) {
#if HWY_TARGET == HWY_SCALAR
  std::copy_n(from, padded_n, to);
#else
  const F32 d;
  int64_t i = 0;
  for (; i < paired(n); i += kPairLanes) {
    const Vec low = load(from + i), high = load(from + i + kLanes);
    store(hn::ConcatEven(d, high, low), to + i);
    store(hn::ConcatOdd(d, high, low), to + i + kLanes);
  }
  std::copy(from + i, from + padded_n, to + i);
#endif
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
