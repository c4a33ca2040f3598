// Prefill in float32: the fused chunk kernel. A task walks the chunks of its sequence with the
// state on hand; u, w and the states between chunks never go to memory. The steps of a chunk, which
// docs/algorithm.md derives:
//
// 1. pack_rows: k and q of the chunk to float rows, k to columns, and norm factors of the rows.
// 2. gram: K K^T and Q K^T, once for all value heads of the q/k head.
// 3. compute_chunk_gates, per value head: decays, -A and P (chunk_gates-inl.h).
// 4. Per panel of V columns, all of it before the next panel, so that the panel stays in L1:
//    solve: S K, the residual beta (V - exp(G) S K), and its forward substitution, row tile by row
//    tile in registers: V_new = (I + A)^-1 residual without forming the inverse;
//    output: O = scale exp(G) S Q + P V_new;
//    update_state: S <- exp(G_last) S + (exp(G_last - G) V_new)^T K.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Rows of tokens t0 .. t0 + count - 1 of k or q as floats, zeros from there to kChunk, and their
// norm factors: what a row is to be multiplied with goes onto the products, which are fewer.
template <class T>
HWY_INLINE void pack_rows(const DeltaRuleProblem& problem, const TokenTensor& tensor,
                          const Sequence& sequence, int64_t t0, int64_t count, int64_t head,
                          float* rows, float* norms) {
  const int64_t K = problem.shape.K, padded = padded_k(K);
  for (int64_t i = 0; i < kChunk; ++i) {
    float* row = rows + i * kRowStride;
    norms[i] = 1.0f;
    if (i >= count) {
      std::fill_n(row, padded, 0.0f);
      continue;
    }
    load_row(reinterpret_cast<const T*>(tensor.at(sequence, t0 + i, head)), K, row);
    std::fill(row + K, row + padded, 0.0f);
    if (problem.use_qk_l2norm) norms[i] = sum_of_squares(row, K);
  }
  if (problem.use_qk_l2norm) to_inverse_norms(norms, kChunk, problem.l2norm_eps);
}

// gram[r][j] = row r . k_j, of the normalised rows, the rows of k first, then those of q. All of
// the square: the triangle that is needed saves nothing at this size.
HWY_INLINE void gram(const ChunkScratch& scratch, int64_t K) {
  constexpr int kN = kChunk / kLanes;
  constexpr int kR = kRows * kVecs / kN;
  for (int r = 0; r < 2 * kChunk; r += kR) {
    Tile<kR, kN> tile;
    set_zero(tile);
    add_product<kRowStride>(tile, scratch.rows + r * kRowStride, 1, scratch.columns, kChunk, K);
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < kN; ++j) {
        const Vec factor =
            hn::Mul(hn::Set(F32(), scratch.norms[r + i]), load(scratch.norms + j * kLanes));
        store(hn::Mul(factor, tile.at[i][j]), scratch.gram + (r + i) * kChunk + j * kLanes);
      }
    }
  }
}

// One panel of one chunk.
template <class T>
struct PanelStep : PanelRows<T> {
  const ChunkScratch& scratch;
  int64_t K;  // padded

  using PanelRows<T>::problem, PanelRows<T>::panel, PanelRows<T>::t0, PanelRows<T>::count;

  // V_new and its decayed copy, for the row tiles that have tokens.
  HWY_INLINE void solve() const {
#pragma GCC unroll 2
    for (int r = 0; r < kChunk; r += kRows) {
      if (r >= count) break;
      this->prefetch_values(r);
      Tile<kRows, kVecs> tile;
      set_zero(tile);
      add_product<kRowStride>(tile, scratch.rows + r * kRowStride, 1, panel.state, kPanel, K);
      if (HWY_LIKELY(this->is_full_tile(r))) {
        to_residual<true>(tile, r);
      } else {
        to_residual<false>(tile, r);
      }
      substitute(tile, r);
    }
  }
  // From S k_i to beta_i (v_i - exp(G_i) S k_i).
  template <bool kFullTile>
  HWY_INLINE void to_residual(Tile<kRows, kVecs>& tile, int r) const {
    const F32 d;
    const ChunkGates& gates = *scratch.gates;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vec beta = hn::Set(d, gates.beta[r + i]);
      const Vec decay = hn::Set(d, gates.key_decay[r + i]);
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        const Vec v = this->template value<kFullTile>(r + i, j);
        tile.at[i][j] = hn::Mul(beta, hn::NegMulAdd(decay, tile.at[i][j], v));
      }
    }
  }
  // From the residual to V_new: rows of earlier tiles first, then those of this one.
  HWY_INLINE void substitute(Tile<kRows, kVecs>& tile, int r) const {
    const F32 d;
    const ChunkGates& gates = *scratch.gates;
    float* v_new = scratch.v_new + r * kPanel;
    float* decayed = scratch.decayed + r * kPanel;
    add_product<kChunk>(tile, &gates.minus_a[r][0], 1, scratch.v_new, kPanel, r);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
      for (int m = i + 1; m < kRows; ++m) {
        const Vec a = hn::Set(d, gates.minus_a[r + m][r + i]);
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          tile.at[m][j] = hn::MulAdd(a, tile.at[i][j], tile.at[m][j]);
        }
      }
      const Vec to_end = hn::Set(d, gates.to_end[r + i]);
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        store(tile.at[i][j], v_new + i * kPanel + j * kLanes);
        store(hn::Mul(to_end, tile.at[i][j]), decayed + i * kPanel + j * kLanes);
      }
    }
  }

  HWY_INLINE void output() const {
    const F32 d;
    const ChunkGates& gates = *scratch.gates;
#pragma GCC unroll 2
    for (int r = 0; r < kChunk; r += kRows) {
      if (r >= count) break;
      Tile<kRows, kVecs> tile;
      set_zero(tile);
      add_product<kRowStride>(tile, scratch.rows + (kChunk + r) * kRowStride, 1, panel.state,
                              kPanel, K);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const Vec factor = hn::Set(d, gates.query_decay[r + i]);
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) tile.at[i][j] = hn::Mul(factor, tile.at[i][j]);
      }
      add_product<kChunk>(tile, &gates.attention[r][0], 1, scratch.v_new, kPanel, r + kRows);
      this->store_output(tile, r);
    }
  }

  HWY_INLINE void update_state() const {
    if (HWY_LIKELY(count > kChunk - kRows)) {
      update_state(std::integral_constant<int, kChunk>());  // the loop over tokens unrolls
    } else {
      update_state((count + kRows - 1) / kRows * kRows);
    }
  }
  template <class Tokens>
  HWY_INLINE void update_state(Tokens tokens) const {
    const Vec whole = hn::Set(F32(), scratch.gates->whole);
    const float* decayed = scratch.decayed;
    const float* key = scratch.rows;
    float* state = panel.state;
    for (int64_t k = 0; k < K; k += kRows, key += kRows, state += kRows * kPanel) {
      Tile<kRows, kVecs> tile;
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          tile.at[i][j] = hn::Mul(whole, load(state + i * kPanel + j * kLanes));
        }
      }
      add_product<1>(tile, key, kRowStride, decayed, kPanel, tokens);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) store(tile.at[i][j], state + i * kPanel + j * kLanes);
      }
    }
  }

  void update_and_store_every_state(int64_t n) const {
    for (int64_t i = 0; i < count; ++i) {
      const float* key = scratch.rows + i * kRowStride;
      add_token(panel.state, K, scratch.gates->step[i], scratch.v_new + i * kPanel,
                [&](int64_t k) { return key[k] * scratch.norms[i]; });
      this->store_token_state(n, i, scratch.slot_rows);
    }
  }
};

inline void chunk(const DeltaRuleProblem& problem, const Split& split, int64_t index,
                  std::byte* base) {
  const ChunkScratch scratch(problem.shape, split, base);
  with_element(problem.shape.dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t K = padded_k(problem.shape.K);
    walk_chunks<T>(
        problem, split, split.task(index), scratch, [](const Panel&) {},
        [&](const Sequence& sequence, int64_t t0, int64_t count, int64_t head) {
          pack_rows<T>(problem, problem.k, sequence, t0, count, head, scratch.rows, scratch.norms);
          pack_rows<T>(problem, problem.q, sequence, t0, count, head,
                       scratch.rows + kChunk * kRowStride, scratch.norms + kChunk);
          transpose(scratch.rows, kRowStride, kChunk, K, scratch.columns, kChunk);
          gram(scratch, K);
        },
        [] {},
        [&](const PanelRows<T>& rows) {
          return PanelStep<T>{rows, scratch, K};
        });
  });
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
