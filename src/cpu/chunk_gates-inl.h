// What the gates make of a chunk of one value head: decays, and the two masked matrices.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

struct ChunkGates {
  float beta[kChunk];
  float step[kChunk];  // exp(g_i)
  // exp(G_i), G_i = g_0 + .. + g_i, as each use of a row of k or q wants it: times the row's norm
  // factor, for the rows are raw. That of a short row is above 1: finite, as finite_exp is.
  float key_decay[kChunk];    // exp(G_i) norm(k_i): S k_i at the chunk's start to that at token i
  float query_decay[kChunk];  // scale exp(G_i) norm(q_i)
  float to_end[kChunk];       // exp(G_last - G_i) norm(k_i)
  float whole;                // exp(G_last)
  // Zero outside the triangles.
  float minus_a[kChunk][kChunk];    // -beta_i exp(G_i - G_j) (k_i . k_j), i > j
  float attention[kChunk][kChunk];  // scale exp(G_i - G_j) (q_i . k_j), i >= j
};

// An infinity as the largest float of its sign, a NaN as it is.
HWY_INLINE Vec finite(Vec x) {
  const Vec most = hn::Set(F32(), std::numeric_limits<float>::max());
  return hn::IfThenElse(hn::Gt(hn::Abs(x), most), hn::CopySign(most, x), x);
}

// e^x, at most the largest float: a decay is multiplied with zeros, of the padding and of a state
// that starts from nothing, and infinity would make them NaN. What is not zero overflows all the
// same.
HWY_INLINE Vec finite_exp(Vec x) {
  const Vec most = hn::Set(F32(), std::numeric_limits<float>::max());
  const Vec y = exp(x);
  return hn::IfThenElse(hn::Gt(y, most), most, y);
}

// norms: 1 / |k_i|, then 1 / |q_i|, or ones. gram, of the normalised rows: rows 0 .. kChunk - 1 are
// k_i . k_j, the next kChunk rows q_i . k_j. Tokens from `count` on
// are padding with g = 0 and beta = 0: they decay nothing.
inline void compute_chunk_gates(const DeltaRuleProblem& problem, const Sequence& sequence,
                                int64_t t0, int64_t count, int64_t head, const float* norms,
                                const float* gram, ChunkGates& gates) {
  const F32 d;
  alignas(64) float g[kChunk] = {};
  std::fill_n(gates.beta, kChunk, 0.0f);
  compute_gates(problem.gates, sequence, t0, count, head, g, gates.beta);

  // G in double, kept as two floats: a float sum would lose the digits of later differences after
  // one large |g|.
  alignas(64) float high[kChunk], low[kChunk];
  double sum = 0;
  for (int i = 0; i < kChunk; ++i) {
    sum += static_cast<double>(g[i]);
    high[i] = static_cast<float>(sum);
    low[i] = static_cast<float>(sum - static_cast<double>(high[i]));
  }
  const auto difference = [&](Vec to_high, Vec to_low, int j) {
    return hn::Add(hn::Sub(to_high, load(high + j)), hn::Sub(to_low, load(low + j)));
  };
  const Vec last_high = hn::Set(d, high[kChunk - 1]), last_low = hn::Set(d, low[kChunk - 1]);
  for (int i = 0; i < kChunk; i += kLanes) {
    store(finite_exp(load(g + i)), gates.step + i);
    const Vec from_start = finite_exp(load(high + i));
    const Vec key_norm = load(norms + i), query_norm = load(norms + kChunk + i);
    store(finite(hn::Mul(from_start, key_norm)), gates.key_decay + i);
    store(finite(hn::Mul(from_start, hn::Mul(query_norm, hn::Set(d, problem.scale)))),
          gates.query_decay + i);
    store(finite(hn::Mul(finite_exp(difference(last_high, last_low, i)), key_norm)),
          gates.to_end + i);
  }
  gates.whole = hn::GetLane(finite_exp(last_high));

  for (int i = 0; i < kChunk; ++i) {
    const Vec high_i = hn::Set(d, high[i]), low_i = hn::Set(d, low[i]);
    const Vec minus_beta = hn::Set(d, -gates.beta[i]), scale = hn::Set(d, problem.scale);
    for (int j = 0; j < kChunk; j += kLanes) {
      // Masked before the exponential: above the diagonal the difference may be large and positive.
      const auto on_or_below = hn::FirstN(d, static_cast<size_t>(std::max(0, i - j + 1)));
      const auto below = hn::FirstN(d, static_cast<size_t>(std::max(0, i - j)));
      const Vec decay = finite_exp(hn::IfThenElseZero(on_or_below, difference(high_i, low_i, j)));
      const Vec kk = load(gram + i * kChunk + j), qk = load(gram + (kChunk + i) * kChunk + j);
      store(hn::IfThenElseZero(below, hn::Mul(hn::Mul(decay, minus_beta), kk)),
            &gates.minus_a[i][j]);
      store(hn::IfThenElseZero(on_or_below, hn::Mul(hn::Mul(decay, scale), qk)),
            &gates.attention[i][j]);
    }
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
