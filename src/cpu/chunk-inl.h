// Prefill in float32: the fused chunk kernel. A task walks the chunks of its sequence with the state on
// hand; u, w and the states between chunks never go to memory. Per chunk:
//
//   pack               k and q of the chunk to float rows and columns, l2-normalised on request
//   gram               K K^T and Q K^T, once for all value heads of the q/k head
//   compute_chunk_gates  per value head: decays, -A and P (chunk_gates-inl.h)
//   per panel of V columns, all of them before the next panel, so that the panel stays in L1:
//     solve            S K, the residual beta (V - exp(G) S K), and its forward substitution, row tile by
//                      row tile in registers: V_new = (I + A)^-1 residual without forming the inverse
//     output           O = scale exp(G) S Q + P V_new
//     update_state     S <- exp(G_last) S + (exp(G_last - G) V_new)^T K
//
// (docs/algorithm.md derives these forms.)

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

struct ChunkScratch {
  float* state;        // the task's panels
  float* rows;         // [2 kChunk][padded_k]: k rows, then q rows
  float* columns;      // [padded_k][2 kChunk]: their transpose
  float* gram;         // [2 kChunk][kChunk]
  float* v_new;        // [kChunk][kPanel]
  float* decayed;      // [kChunk][kPanel]: exp(G_last - G_i) v_new_i
  float* slot_rows;    // [kPanel][K], for load_panel and store_panel
  ChunkGates* gates;
  size_t bytes;

  ChunkScratch(const Shape& shape, const Split& split, std::byte* base) {
    const int64_t K = padded_k(shape.K);
    size_t used = 0;
    const auto take = [&](int64_t floats) {
      float* p = reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(base) + used);
      used += (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
      return p;
    };
    state = take(panel_floats(split.max_units(), K));
    rows = take(2 * kChunk * K);
    columns = take(2 * kChunk * K);
    gram = take(2 * kChunk * kChunk);
    v_new = take(kChunk * kPanel);
    decayed = take(kChunk * kPanel);
    slot_rows = take(kPanel * K);
    gates = reinterpret_cast<ChunkGates*>(take(sizeof(ChunkGates) / sizeof(float)));
    bytes = used;
  }
};

inline size_t chunk_scratch(const Shape& shape, const Split& split) {
  return ChunkScratch(shape, split, nullptr).bytes;
}

// Rows of tokens t0 .. t0 + count - 1 of k or q as floats, zeros from there to kChunk.
template <class T>
HWY_INLINE void pack_rows(const DeltaRuleProblem& problem, const TokenTensor& tensor,
                          const Sequence& sequence, int64_t t0, int64_t count, int64_t head,
                          float* rows) {
  const int64_t K = problem.shape.K, padded = padded_k(K);
  for (int64_t i = 0; i < kChunk; ++i) {
    float* row = rows + i * padded;
    if (i >= count) {
      std::fill_n(row, padded, 0.0f);
      continue;
    }
    load_row(reinterpret_cast<const T*>(tensor.at(sequence, t0 + i, head)), K, row);
    std::fill(row + K, row + padded, 0.0f);
    if (problem.use_qk_l2norm) {
      const Vec factor = hn::Set(F32(), inverse_norm(row, K, problem.l2norm_eps));
      int64_t k = 0;
      for (; k + kLanes <= padded; k += kLanes) store(hn::Mul(load(row + k), factor), row + k);
      for (; k < padded; ++k) row[k] *= hn::GetLane(factor);
    }
  }
}

// gram[r][j] = row r . k_j, the rows of k first, then those of q. All of the square: the triangle that is
// needed saves nothing at this size.
HWY_INLINE void gram(const float* columns, int64_t K, float* gram) {
  constexpr int kN = kChunk / kLanes;
  constexpr int kR = kN >= 8 ? 2 : 16 / kN;
  for (int r = 0; r < 2 * kChunk; r += kR) {
    Tile<kR, kN> tile;
    set_zero(tile);
    add_product<1>(tile, columns + r, 2 * kChunk, columns, 2 * kChunk, K);
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < kN; ++j) store(tile.at[i][j], gram + (r + i) * kChunk + j * kLanes);
    }
  }
}

// Rows of consecutive tokens are too far apart for the hardware's prefetchers.
template <class T>
HWY_INLINE void prefetch_row(const T* row, int64_t elements) {
  const char* p = reinterpret_cast<const char*>(row);
  for (int64_t byte = 0; byte < elements * static_cast<int64_t>(sizeof(T)); byte += 64) {
    __builtin_prefetch(p + byte);
  }
}
// To the second-level cache: what the next chunk will read.
template <class T>
HWY_INLINE void prefetch_row_l2(const std::byte* row, int64_t elements) {
  for (int64_t byte = 0; byte < elements * static_cast<int64_t>(sizeof(T)); byte += 64) {
    __builtin_prefetch(row + byte, 0, 2);
  }
}
template <class T>
HWY_INLINE void prefetch_chunk(const DeltaRuleProblem& problem, const Sequence& sequence, int64_t t0,
                               const Split& split, const Split::Task& task) {
  const int64_t end = std::min<int64_t>(t0 + kChunk, sequence.length);
  for (int64_t t = t0; t < end; ++t) {
    prefetch_row_l2<T>(problem.k.at(sequence, t, task.head), problem.shape.K);
    prefetch_row_l2<T>(problem.q.at(sequence, t, task.head), problem.shape.K);
    split.for_each_range(task, [&](int64_t head, int64_t first, int64_t last) {
      prefetch_row_l2<T>(problem.v.at(sequence, t, head) + first * static_cast<int64_t>(sizeof(T)),
                         last - first);
    });
  }
}

// One panel of one chunk.
template <class T>
struct PanelStep {
  const DeltaRuleProblem& problem;
  const ChunkScratch& scratch;
  const Sequence& sequence;
  const Panel& panel;
  int64_t t0;
  int64_t count;  // tokens, the rest of the chunk is padding
  int64_t K;      // padded

  const T* v_row(int64_t i) const {
    return reinterpret_cast<const T*>(problem.v.at(sequence, t0 + i, panel.head)) + panel.column;
  }
  T* out_row(int64_t i) const {
    return reinterpret_cast<T*>(problem.out.at(sequence, t0 + i, panel.head)) + panel.column;
  }
  // Vector j of the panel's part of a row; lanes past its width are zero.
  HWY_INLINE Vec load_columns(const T* row, int j) const {
    if (HWY_LIKELY(panel.width == kPanel)) return load(row + j * kLanes);
    const int64_t left = panel.width - j * kLanes;
    return left <= 0 ? hn::Zero(F32())
                     : load_n(row + j * kLanes, std::min<int64_t>(left, kLanes));
  }
  HWY_INLINE void store_columns(Vec x, T* row, int j) const {
    if (HWY_LIKELY(panel.width == kPanel)) {
      store(x, row + j * kLanes);
      return;
    }
    const int64_t left = panel.width - j * kLanes;
    if (left > 0) store_n(x, row + j * kLanes, std::min<int64_t>(left, kLanes));
  }

  // V_new and its decayed copy, for the row tiles that have tokens.
  HWY_INLINE void solve() const {
    const F32 d;
    const ChunkGates& gates = *scratch.gates;
    for (int r = 0; r < count; r += kRows) {
      const int64_t tokens = std::min<int64_t>(kRows, count - r);
      for (int64_t i = 0; i < tokens; ++i) prefetch_row(v_row(r + i), panel.width);
      Tile<kRows, kVecs> tile;
      set_zero(tile);
      add_product<1>(tile, scratch.columns + r, 2 * kChunk, panel.state, kPanel, K);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const Vec beta = hn::Set(d, gates.beta[r + i]);
        const Vec decay = hn::Set(d, gates.from_start[r + i]);
        const bool token = i < tokens;
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          const Vec v = HWY_LIKELY(token) ? load_columns(v_row(r + i), j) : hn::Zero(d);
          tile.at[i][j] = hn::Mul(beta, hn::NegMulAdd(decay, tile.at[i][j], v));
        }
      }
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
          const int64_t at = (r + i) * kPanel + j * kLanes;
          store(tile.at[i][j], scratch.v_new + at);
          store(hn::Mul(to_end, tile.at[i][j]), scratch.decayed + at);
        }
      }
    }
  }

  HWY_INLINE void output() const {
    const F32 d;
    const ChunkGates& gates = *scratch.gates;
    for (int r = 0; r < count; r += kRows) {
      Tile<kRows, kVecs> tile;
      set_zero(tile);
      add_product<1>(tile, scratch.columns + kChunk + r, 2 * kChunk, panel.state, kPanel, K);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const Vec factor = hn::Set(d, gates.from_start[r + i] * problem.scale);
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) tile.at[i][j] = hn::Mul(factor, tile.at[i][j]);
      }
      add_product<kChunk>(tile, &gates.attention[r][0], 1, scratch.v_new, kPanel, r + kRows);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        if (r + i >= count) break;
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) store_columns(tile.at[i][j], out_row(r + i), j);
      }
    }
  }

  HWY_INLINE void update_state() const {
    const Vec whole = hn::Set(F32(), scratch.gates->whole);
    const int64_t tokens = (count + kRows - 1) / kRows * kRows;
    for (int64_t k = 0; k < K; k += kRows) {
      Tile<kRows, kVecs> tile;
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          tile.at[i][j] = hn::Mul(whole, load(panel.state + (k + i) * kPanel + j * kLanes));
        }
      }
      add_product<1>(tile, scratch.rows + k, K, scratch.decayed, kPanel, tokens);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          store(tile.at[i][j], panel.state + (k + i) * kPanel + j * kLanes);
        }
      }
    }
  }

  // In place of update_state where the state after every token is asked for: S_i = exp(g_i) S_i-1 +
  // v_new_i k_i^T, stored token by token.
  void update_and_store_every_state(int64_t n) const {
    const F32 d;
    for (int64_t i = 0; i < count; ++i) {
      const Vec step = hn::Set(d, scratch.gates->step[i]);
      for (int64_t k = 0; k < K; ++k) {
        const Vec key = hn::Set(d, scratch.rows[i * K + k]);
        for (int j = 0; j < kVecs; ++j) {
          float* s = panel.state + k * kPanel + j * kLanes;
          const Vec v_new = load(scratch.v_new + i * kPanel + j * kLanes);
          store(hn::MulAdd(key, v_new, hn::Mul(step, load(s))), s);
        }
      }
      if (std::byte* slot = problem.final_slot(n, t0 + i)) {
        store_panel(problem.shape, panel, slot, problem.final_state.dtype, scratch.slot_rows);
      }
    }
  }
};

// A skipped sequence: its rows of out, in the columns of the task, are zero.
inline void zero_output(const DeltaRuleProblem& problem, const Split& split, const Split::Task& task) {
  const Sequence sequence = problem.sequences.at(task.n);
  const int64_t size = size_of(problem.out.dtype);
  split.for_each_range(task, [&](int64_t head, int64_t begin, int64_t end) {
    for (int64_t t = 0; t < sequence.length; ++t) {
      std::fill_n(problem.out.at(sequence, t, head) + begin * size, (end - begin) * size, std::byte{0});
    }
  });
}

template <class T>
void chunk_task(const DeltaRuleProblem& problem, const Split& split, const Split::Task& task,
                std::byte* base) {
  const Shape& shape = problem.shape;
  const int64_t K = padded_k(shape.K);
  const Sequence sequence = problem.sequences.at(task.n);
  const InitialState initial = problem.initial(task.n);
  if (initial.skip) {
    zero_output(problem, split, task);
    return;
  }
  const ChunkScratch scratch(shape, split, base);
  const auto for_each = [&](const auto& body) {
    for_each_panel(split, task, K, scratch.state, body);
  };
  const auto store_all = [&](std::byte* slot, DType dtype) {
    for_each([&](const Panel& panel) { store_panel(shape, panel, slot, dtype, scratch.slot_rows); });
  };

  for_each([&](const Panel& panel) {
    load_panel(shape, initial.data, problem.initial_state.dtype, panel, scratch.slot_rows);
  });
  for (int64_t t0 = 0; t0 < sequence.length; t0 += kChunk) {
    const int64_t count = std::min<int64_t>(kChunk, sequence.length - t0);
    pack_rows<T>(problem, problem.k, sequence, t0, count, task.head, scratch.rows);
    pack_rows<T>(problem, problem.q, sequence, t0, count, task.head, scratch.rows + kChunk * K);
    transpose(scratch.rows, K, 2 * kChunk, K, scratch.columns, 2 * kChunk);
    gram(scratch.columns, K, scratch.gram);
    prefetch_chunk<T>(problem, sequence, t0 + kChunk, split, task);
    int64_t head = -1;
    for_each([&](const Panel& panel) {
      if (panel.head != head) {
        head = panel.head;
        compute_chunk_gates(problem, sequence, t0, count, head, scratch.gram, *scratch.gates);
      }
      const PanelStep<T> step{problem, scratch, sequence, panel, t0, count, K};
      step.solve();
      step.output();
      if (HWY_UNLIKELY(problem.stores_every_state())) {
        step.update_and_store_every_state(task.n);
      } else {
        step.update_state();
      }
    });
    const int64_t end = t0 + count;
    if (problem.checkpoint_every > 0 && end % problem.checkpoint_every == 0) {
      store_all(problem.checkpoint(task.n, end / problem.checkpoint_every - 1),
                problem.checkpoints.dtype);
    }
  }
  if (!problem.stores_every_state()) {
    if (std::byte* slot = problem.final_slot(task.n)) store_all(slot, problem.final_state.dtype);
  }
}

inline void chunk(const DeltaRuleProblem& problem, const Split& split, int64_t task,
                  std::byte* scratch) {
  with_element(problem.shape.dtype, [&](auto element) {
    chunk_task<decltype(element)>(problem, split, split.task(task), scratch);
  });
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
