// q and k of a token that are given as bfloat16, for dot products with states of bfloat16: their
// elements as they are in memory, so that the products are exact, and their norms as factors of the
// sums.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// What sums of products with the rows of load_given() are to be multiplied by, and k . q.
struct GivenFactors {
  float k = 1, q = 1, kq = 0;
};

// A row of 32 kSteps elements as pairs; returns its factor. Of rows that are neither short nor very
// long the pairs are the row and the factor is the norm. Where that could overflow before the other
// shrinks it, the norm's power of two is in the pairs; and all of a norm that is zero or not
// finite, as no number but those is then left.
template <int kSteps>
HWY_INLINE float load_given_row(const std::byte* row, float norm, __m512i (&pairs)[kSteps]) {
  const bf16* const from = reinterpret_cast<const bf16*>(row);
  constexpr float kLeast = 0x1p-10f, kMost = std::numeric_limits<float>::max();
  if (norm >= kLeast && norm <= 1) {
    for (int64_t s = 0; s < kSteps; ++s) pairs[s] = _mm512_loadu_si512(from + s * kPairLanes);
    return norm;
  }
  float in_pairs = norm, factor = 1;
  if (norm > 0 && norm <= kMost) {
    int exponent = 0;
    factor = std::frexp(norm, &exponent);
    in_pairs = std::ldexp(1.0f, exponent);
  }
  const Vec scale = hn::Set(F32(), in_pairs);
  for (int64_t s = 0; s < kSteps; ++s) {
    Vec even, odd;
    load_pairs(from + s * kPairLanes, even, odd);
    pairs[s] = pairs_of_bf16(hn::Mul(even, scale), hn::Mul(odd, scale));
  }
  return factor;
}

// k and q for dot products, and k times its norm as floats in pair order, for updates.
template <int kSteps>
HWY_INLINE GivenFactors load_given(const GivenHead& given, __m512i (&k)[kSteps],
                                   __m512i (&q)[kSteps], float* k_pairs) {
  const F32 d;
  GivenFactors factors = {load_given_row(given.k, given.k_norm, k),
                          load_given_row(given.q, given.q_norm, q)};
  const Vec k_norm = hn::Set(d, given.k_norm), q_norm = hn::Set(d, given.q_norm);
  Vec even_sum = hn::Zero(d), odd_sum = hn::Zero(d);
  for (int64_t s = 0; s < kSteps; ++s) {
    Vec k_even, k_odd, q_even, q_odd;
    load_pairs(reinterpret_cast<const bf16*>(given.k) + s * kPairLanes, k_even, k_odd);
    load_pairs(reinterpret_cast<const bf16*>(given.q) + s * kPairLanes, q_even, q_odd);
    k_even = with_plain_nan(d, hn::Mul(k_norm, k_even));
    k_odd = with_plain_nan(d, hn::Mul(k_norm, k_odd));
    store(k_even, k_pairs + s * kPairLanes);
    store(k_odd, k_pairs + s * kPairLanes + kLanes);
    even_sum = hn::MulAdd(k_even, hn::Mul(q_norm, q_even), even_sum);
    odd_sum = hn::MulAdd(k_odd, hn::Mul(q_norm, q_odd), odd_sum);
  }
  factors.kq = hn::GetLane(hn::SumOfLanes(d, hn::Add(even_sum, odd_sum)));
  return factors;
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
