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

#if defined(GDN_ISA_STATE_TIES_AWAY)
constexpr bool kStateTiesAway = true;
#else
constexpr bool kStateTiesAway = false;
#endif

// Where states are rounded with ties away from zero: x, or a NaN that the sum of nearest_pairs()
// leaves one. (All ones in a NaN's upper half, as GPUs make them, would become zero.)
template <class D>
HWY_INLINE hn::Vec<D> with_plain_nan(D d, hn::Vec<D> x) {
  if constexpr (!kStateTiesAway) return x;
  const hn::Vec<D> plain = hn::BitCast(d, hn::Set(hn::RebindToUnsigned<D>(), 0x7fc00000u));
  return hn::IfThenElse(hn::IsNaN(x), plain, x);
}

// Two vectors of a state's row, each rounded: to nearest even, or with ties away from zero, after
// with_plain_nan().
HWY_INLINE void store_pairs(Vec even, Vec odd, bf16* p) {
#if defined(GDN_ISA_STATE_TIES_AWAY)
  _mm512_storeu_si512(p, nearest_pairs(even, odd));
#elif defined(GDN_ISA_HAS_BF16_DOT)
  _mm512_storeu_si512(p, make_pairs(even, odd));
#else
  const hn::RebindToUnsigned<F32> u32;
  const auto low = hn::ShiftRight<16>(round_to_bf16(even));
  hn::StoreU(hn::Or(low, round_to_bf16(odd)), u32, reinterpret_cast<uint32_t*>(p));
#endif
}

// kLanes elements, or n of them, of a state of any dtype, rounded as store_pairs() does.
template <class T>
HWY_INLINE void store_state(Vec x, T* p) {
#if defined(GDN_ISA_STATE_TIES_AWAY)
  if constexpr (std::is_same_v<T, bf16>) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        nearest_bf16_words(with_plain_nan(F32(), x)));
    return;
  }
#endif
  store(x, p);
}
template <class T>
HWY_INLINE void store_state_n(Vec x, T* p, int64_t n) {
  T buffer[kLanes];
  store_state(x, buffer);
  std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
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
  for (; i < padded_n; ++i) to[i] = from[i];
#endif
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
