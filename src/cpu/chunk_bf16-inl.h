// Prefill with bfloat16 operands and float32 accumulation: the steps of chunk-inl.h with pairs.
//
// q and k are never rounded again: the raw bfloat16 rows are the operands and their l2 norms go on
// as row scales. The state lives in float panels as there, with a bfloat16 copy for S K and S Q.
// What is rounded beside that copy is V_new, decayed to the chunk's end for the state update, and
// that rounding corrects itself: later rows of the substitution are solved for the rounded ones. On
// identical keys this takes the error of the state from 7.7e-3 to 1.9e-3. The substitution
// therefore works on the decayed rows (ArrivalScales). It and P V_new stay in float32: in bfloat16
// the latter costs up to 1.3e-2 there.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// As kRowStride (chunk_walk-inl.h), for rows of pairs.
constexpr int kPairStride = 256 / 2 + 16;

// The substitution works on s_i v_new_i, which is what arrives in the state at the chunk's end: s_i
// is to_end of the gates, so that the value that is rounded for the state is the one that later
// rows of the substitution take. Where to_end is outside (1e-16, 1e6), or NaN, s_i is 1, and the
// row is rounded apart for the state. So is every row before it: 1 / s_i is a factor of what later
// rows take, and where g rises and then falls, of a product past float32's exponent. (With g <= 0
// and norms alike the rows before it have the smaller to_end anyway.)
struct alignas(64) ArrivalScales {
  float value[kChunk];    // beta_i s_i: of v_i
  float key[kChunk];      // beta_i s_i exp(G_i) norm(k_i): of S k_i, k_i not normalised
  float inverse[kChunk];  // 1 / s_i
  float rest[kChunk];     // to_end_i / s_i
  bool all_arrive;        // rest is 1 everywhere
};

struct ChunkBf16Scratch {
  ChunkScratch common;  // state, gram, v_new, gates; its rows and columns hold the pairs
  uint32_t* rows;       // [2 kChunk][kPairStride]: pairs along K of the k rows, then of the q rows
  uint32_t* columns;    // [K / 2][kChunk]: the k rows, transposed
  uint32_t* token_pairs;  // [K][kChunk / 2]: pairs of consecutive tokens of k
  uint32_t* state;        // bfloat16 copy of the panels: [K / 2][kPanel] pairs along K each
  uint32_t* decayed;      // [kChunk / 2][kPanel]: token pairs; v_new of `common` is times s_i
  ArrivalScales* scales;
  size_t bytes;

  ChunkBf16Scratch(const Shape& shape, const Split& split, std::byte* base)
      : common(shape, split, base) {
    const int64_t K = padded_k(shape.K);
    rows = reinterpret_cast<uint32_t*>(common.rows);
    columns = reinterpret_cast<uint32_t*>(common.columns);
    // The pairs take half of what chunk-inl.h needs for rows: the token pairs fit in behind.
    token_pairs = rows + 2 * kChunk * kPairStride;
    decayed = reinterpret_cast<uint32_t*>(common.decayed);
    state = reinterpret_cast<uint32_t*>(reinterpret_cast<uintptr_t>(base) + common.bytes);
    const int64_t state_pairs = panel_floats(split.max_units(), K) / 2;
    scales = reinterpret_cast<ArrivalScales*>(state + state_pairs);
    bytes = common.bytes + static_cast<size_t>(state_pairs) * sizeof(float) + sizeof(ArrivalScales);
  }
};
static_assert(256 * kChunk / 2 <= 2 * kChunk * (kRowStride - kPairStride));

inline size_t chunk_bf16_scratch(const Shape& shape, const Split& split) {
  return ChunkBf16Scratch(shape, split, nullptr).bytes;
}

HWY_INLINE void copy_row(const bf16* from, int64_t n, bf16* to) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) _mm512_storeu_si512(to + i, _mm512_loadu_si512(from + i));
  if (i < n) std::memcpy(to + i, from + i, static_cast<size_t>(n - i) * sizeof(bf16));
}

// Rows of k or q as they are, and their row scales; zeros from `count` to kChunk.
HWY_INLINE void pack_raw_rows(const DeltaRuleProblem& problem, const TokenTensor& tensor,
                              const Sequence& sequence, int64_t t0, int64_t count, int64_t head,
                              uint32_t* rows, float* norms) {
  const int64_t K = problem.shape.K, padded = padded_k(K);
  for (int64_t i = 0; i < kChunk; ++i) {
    uint32_t* row = rows + i * kPairStride;
    norms[i] = 1.0f;
    if (i >= count) {
      std::fill_n(row, padded / 2, 0u);
      continue;
    }
    const auto* from = reinterpret_cast<const bf16*>(tensor.at(sequence, t0 + i, head));
    row[padded / 2 - 1] = 0;
    std::fill_n(row + K / 2, (padded - K) / 2, 0u);
    copy_row(from, K, reinterpret_cast<bf16*>(row));
    if (problem.use_qk_l2norm) norms[i] = sum_of_squares(from, K);
  }
  if (problem.use_qk_l2norm) to_inverse_norms(norms, kChunk, problem.l2norm_eps);
}

// token_pairs[k][i] = (k_2i[k], k_2i+1[k]): a row of `columns` has the two rows k, k + 1 of it,
// whose elements alternate there.
HWY_INLINE void pair_tokens(const uint32_t* columns, int64_t K, uint32_t* token_pairs) {
  static_assert(kChunk == kLanes);
  const __m512i even_then_odd =
      _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1,  //
                       30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  for (int64_t k = 0; k < K; k += 2) {
    const __m512i both = _mm512_loadu_si512(columns + k / 2 * kChunk);
    _mm512_storeu_si512(token_pairs + k * (kChunk / 2),
                        _mm512_permutexvar_epi16(even_then_odd, both));
  }
}

// The gram matrix of the normalised rows.
HWY_INLINE void gram_of_pairs(const ChunkBf16Scratch& scratch, int64_t K) {
  const Vec key_norms = load(scratch.common.norms);
  for (int r = 0; r < 2 * kChunk; r += 16) {
    Tile<16, 1> tile;
    set_zero(tile);
    add_pair_product<kPairStride>(tile, scratch.rows + r * kPairStride, 1, scratch.columns, kChunk,
                                  K / 2);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const Vec scale = hn::Mul(key_norms, hn::Set(F32(), scratch.common.norms[r + i]));
      store(hn::Mul(scale, tile.at[i][0]), scratch.common.gram + (r + i) * kChunk);
    }
  }
}
static_assert(kChunk == kLanes, "gram_of_pairs takes a row of the gram matrix as one vector");

// A NaN by its usual bits, whose lower half is zero: what nearest_bf16 takes. Others come in with g
// and beta alone; everything else is bfloat16, or what arithmetic made.
HWY_INLINE Vec with_usual_nan(Vec x) {
  const Vec nan = hn::Set(F32(), std::numeric_limits<float>::quiet_NaN());
  return hn::IfThenElse(hn::IsNaN(x), nan, x);
}

// The scales of a value head's chunk, and the matrices of its gates in terms of them: minus_a from
// and to scaled rows, attention from scaled ones.
HWY_INLINE void scale_to_arrival(const ChunkBf16Scratch& scratch) {
  static_assert(kChunk == kLanes);
  const F32 d;
  ChunkGates& gates = *scratch.common.gates;
  ArrivalScales& scales = *scratch.scales;
  const Vec one = hn::Set(d, 1.0f), to_end = with_usual_nan(load(gates.to_end));
  // What is smaller arrives as nothing beside anything else, and times small values would be a
  // denormal, that is lost to the output; larger are decays that grow (g > 0).
  const auto in_range =
      hn::And(hn::Gt(to_end, hn::Set(d, 1e-16f)), hn::Lt(to_end, hn::Set(d, 1e6f)));
  // The rows after the last one that is not in range.
  uint64_t outside = 0;
  hn::StoreMaskBits(d, hn::Not(in_range), reinterpret_cast<uint8_t*>(&outside));
  const auto arrives = hn::Not(hn::FirstN(d, static_cast<size_t>(std::bit_width(outside))));
  const Vec scale = hn::IfThenElse(arrives, to_end, one);
  const Vec inverse = hn::Div(one, scale);
  const Vec value = with_usual_nan(hn::Mul(load(gates.beta), scale));
  store(value, scales.value);
  store(with_usual_nan(finite(hn::Mul(value, load(gates.key_decay)))), scales.key);
  store(inverse, scales.inverse);
  store(hn::IfThenElse(arrives, one, to_end), scales.rest);
  scales.all_arrive = hn::AllTrue(d, arrives);
  alignas(64) float row_scales[kChunk];
  store(scale, row_scales);
  for (int i = 0; i < kChunk; ++i) {
    const Vec a = hn::Mul(load(gates.minus_a[i]), hn::Set(d, row_scales[i]));
    store(with_usual_nan(finite(hn::Mul(a, inverse))), gates.minus_a[i]);
    store(hn::Mul(load(gates.attention[i]), inverse), gates.attention[i]);
  }
}

// The bfloat16 copy of a panel.
HWY_INLINE void round_panel(const float* panel, int64_t K, uint32_t* pairs) {
  for (int64_t k = 0; k < K; k += 2) {
    for (int j = 0; j < kVecs; ++j) {
      const float* s = panel + k * kPanel + j * kLanes;
      _mm512_storeu_si512(pairs + k / 2 * kPanel + j * kLanes,
                          make_pairs(load(s), load(s + kPanel)));
    }
  }
}

struct PanelStepBf16 : PanelRows<bf16> {
  const ChunkBf16Scratch& scratch;
  uint32_t* state;  // the panel's copy in bfloat16
  int64_t K;        // padded

  HWY_INLINE void solve() const {
#pragma GCC unroll 2
    for (int r = 0; r < kChunk; r += kRows) {
      if (r >= count) break;
      prefetch_values(r);
      Tile<kRows, kVecs> tile;
      set_zero(tile);
      add_pair_product<kPairStride>(tile, scratch.rows + r * kPairStride, 1, state, kPanel, K / 2);
      if (HWY_LIKELY(is_full_tile(r))) {
        to_residual<true>(tile, r);
      } else {
        to_residual<false>(tile, r);
      }
      substitute(tile, r);
    }
  }
  // From S k_i, k_i not normalised, to s_i beta_i (v_i - exp(G_i) S k_i).
  template <bool kFullTile>
  HWY_INLINE void to_residual(Tile<kRows, kVecs>& tile, int r) const {
    const F32 d;
    const ArrivalScales& scales = *scratch.scales;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vec of_value = hn::Set(d, scales.value[r + i]);
      const Vec of_key = hn::Set(d, scales.key[r + i]);
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        const Vec v = hn::Mul(of_value, value<kFullTile>(r + i, j));
        tile.at[i][j] = hn::NegMulAdd(of_key, tile.at[i][j], v);
      }
    }
  }
  // From the residual to s_i v_new_i, rounded: later rows are made to fit the rounded ones. Every
  // row waits for the one before, so what is between them is kept short.
  HWY_INLINE void substitute(Tile<kRows, kVecs>& tile, int r) const {
    const F32 d;
    const ChunkGates& gates = *scratch.common.gates;
    add_product<kChunk>(tile, &gates.minus_a[r][0], 1, scratch.common.v_new, kPanel, r);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) tile.at[i][j] = nearest_bf16(tile.at[i][j]);
#pragma GCC unroll 16
      for (int m = i + 1; m < kRows; ++m) {
        const Vec a = hn::Set(d, gates.minus_a[r + m][r + i]);
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          tile.at[m][j] = hn::MulAdd(a, tile.at[i][j], tile.at[m][j]);
        }
      }
    }
    float* v_new = scratch.common.v_new + r * kPanel;
    uint32_t* pairs = scratch.decayed + r / 2 * kPanel;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i += 2) {
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        const Vec even = tile.at[i][j], odd = tile.at[i + 1][j];
        store(even, v_new + i * kPanel + j * kLanes);
        store(odd, v_new + (i + 1) * kPanel + j * kLanes);
        _mm512_storeu_si512(pairs + i / 2 * kPanel + j * kLanes, pairs_of_bf16(even, odd));
      }
    }
    if (HWY_UNLIKELY(!scratch.scales->all_arrive)) take_rest(r);
  }
  // The pairs again, with what arrives of rows whose scale is not to_end. Not of the tile: to be
  // passed it would lie in memory, and every step on it write there.
  HWY_NOINLINE void take_rest(int r) const {
    const F32 d;
    const float* rest = scratch.scales->rest + r;
    const float* v_new = scratch.common.v_new + r * kPanel;
    uint32_t* pairs = scratch.decayed + r / 2 * kPanel;
    for (int i = 0; i < kRows; i += 2) {
      for (int j = 0; j < kVecs; ++j) {
        const float* even = v_new + i * kPanel + j * kLanes;
        const Vec low = hn::Mul(hn::Set(d, rest[i]), load(even));
        const Vec high = hn::Mul(hn::Set(d, rest[i + 1]), load(even + kPanel));
        _mm512_storeu_si512(pairs + i / 2 * kPanel + j * kLanes, make_pairs(low, high));
      }
    }
  }

  HWY_INLINE void output() const {
    const F32 d;
    const ChunkGates& gates = *scratch.common.gates;
#pragma GCC unroll 2
    for (int r = 0; r < kChunk; r += kRows) {
      if (r >= count) break;
      Tile<kRows, kVecs> tile;
      set_zero(tile);
      add_pair_product<kPairStride>(tile, scratch.rows + (kChunk + r) * kPairStride, 1, state,
                                    kPanel, K / 2);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const Vec factor = hn::Set(d, gates.query_decay[r + i]);
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) tile.at[i][j] = hn::Mul(factor, tile.at[i][j]);
      }
      add_product<kChunk>(tile, &gates.attention[r][0], 1, scratch.common.v_new, kPanel, r + kRows);
      store_output(tile, r);
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
    const Vec whole = hn::Set(F32(), scratch.common.gates->whole);
    const uint32_t* decayed = scratch.decayed;
    const uint32_t* key = scratch.token_pairs;
    float* s = panel.state;
    uint32_t* copy = state;
    for (int64_t k = 0; k < K; k += kRows) {
      Tile<kRows, kVecs> tile;
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          tile.at[i][j] = hn::Mul(whole, load(s + i * kPanel + j * kLanes));
        }
      }
      add_pair_product<kChunk / 2>(tile, key, 1, decayed, kPanel, tokens / 2);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i += 2) {
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          store(tile.at[i][j], s + i * kPanel + j * kLanes);
          store(tile.at[i + 1][j], s + (i + 1) * kPanel + j * kLanes);
          _mm512_storeu_si512(copy + i / 2 * kPanel + j * kLanes,
                              make_pairs(tile.at[i][j], tile.at[i + 1][j]));
        }
      }
      key += kRows * (kChunk / 2);
      s += kRows * kPanel;
      copy += kRows / 2 * kPanel;
    }
  }

  void update_and_store_every_state(int64_t n) const {
    for (int64_t i = 0; i < count; ++i) {
      const auto* key = reinterpret_cast<const uint16_t*>(scratch.rows + i * kPairStride);
      float* v_new = scratch.common.v_new + i * kPanel;
      scale_row(v_new, kPanel, scratch.scales->inverse[i], v_new);
      add_token(panel.state, K, scratch.common.gates->step[i], v_new,
                [&](int64_t k) { return bf16_to_float(key[k]) * scratch.common.norms[i]; });
      store_token_state(n, i, scratch.common.slot_rows);
    }
    round_panel(panel.state, K, state);
  }
};

inline void chunk_bf16(const DeltaRuleProblem& problem, const Split& split, int64_t index,
                       std::byte* base) {
  const int64_t K = padded_k(problem.shape.K);
  const ChunkBf16Scratch scratch(problem.shape, split, base);
  const auto state_of = [&](const Panel& panel) {
    return scratch.state + (panel.state - scratch.common.state) / 2;
  };
  walk_chunks<bf16>(
      problem, split, split.task(index), scratch.common,
      [&](const Panel& panel) { round_panel(panel.state, K, state_of(panel)); },
      [&](const Sequence& sequence, int64_t t0, int64_t count, int64_t head) {
        const int64_t pairs = K / 2;
        pack_raw_rows(problem, problem.k, sequence, t0, count, head, scratch.rows,
                      scratch.common.norms);
        pack_raw_rows(problem, problem.q, sequence, t0, count, head,
                      scratch.rows + kChunk * kPairStride, scratch.common.norms + kChunk);
        transpose(reinterpret_cast<const float*>(scratch.rows), kPairStride, kChunk, pairs,
                  reinterpret_cast<float*>(scratch.columns), kChunk);
        pair_tokens(scratch.columns, K, scratch.token_pairs);
        gram_of_pairs(scratch, K);
      },
      [&] { scale_to_arrival(scratch); },
      [&](const PanelRows<bf16>& rows) {
        return PanelStepBf16{rows, scratch, state_of(rows.panel), K};
      });
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
