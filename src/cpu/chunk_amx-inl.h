// Prefill with bfloat16 operands on AMX's tiles: chunks of 64 tokens, all products on the matrix
// unit, which does sixteen times what the vector unit can; what is left for vectors is copying,
// scaling and the inverse. Steps of a chunk:
//
// 1. Per q/k head: pack k and q, gram (chunk_amx_gates-inl.h).
// 2. Per value head: decays, P, -A and T = (I + A)^-1, in float32, P and T then split.
// 3. Per panel of 32 V columns, all of it before the next panel:
//      solve:  S K and S Q; R = beta (V - exp(G) S K), split; V_new = T R;
//      output: O = scale exp(G) S Q + P V_new;
//      update: S <- exp(G_last) S + K^T (exp(G_last - G) V_new), and its bfloat16 copy.
//
// q and k are never rounded again, and the state is rounded for S K and S Q only, as in
// chunk_bf16-inl.h. That kernel rounds V_new for the update and makes up for it in the
// substitution; here there is no substitution left to do so in, and the other operands are split
// into two parts each (SplitMatrix): the products are right to 2^-14, twice as many, and cheap.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

struct ChunkAmxScratch {
  float* state;          // the task's panels, [K][kPanel] each
  uint32_t* copy;        // in bfloat16: [K / 2][kPanel] pairs along K each
  AmxOperands operands;
  float* products;       // [2 kAmxChunk][kPanel]: S K, then S Q
  SplitMatrix residual;  // [kTokenWords][kPanel] token pairs, as are the next two
  SplitMatrix v_new_pairs;
  SplitMatrix decayed;   // exp(G_last - G_i) v_new_i
  float* v_new;          // [kAmxChunk][kPanel]
  float* inside;         // [kAmxChunk][kPanel]: P V_new
  float* change;         // [2][kBlock][kPanel]: what is added to rows of the state
  float* slot_rows;      // [kPanel][K], for load_panel and store_panel
  size_t bytes;

  ChunkAmxScratch(const Shape& shape, const Split& split, std::byte* base) {
    const int64_t K = amx_padded_k(shape.K), words = K / 2;
    size_t used = 0;
    const auto floats = [&](int64_t count) {
      float* p = reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(base) + used);
      used += (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
      return p;
    };
    const auto pairs = [&](int64_t count) { return reinterpret_cast<uint32_t*>(floats(count)); };
    const auto split_matrix = [&](int64_t count) {
      uint32_t* high = pairs(count);
      return SplitMatrix{high, pairs(count)};
    };
    state = floats(panel_floats(split.max_units(), K));
    copy = pairs(panel_floats(split.max_units(), K) / 2);
    operands.rows = pairs(2 * kAmxChunk * words);
    operands.columns = pairs(words * kAmxChunk);
    operands.token_pairs = pairs(K * kTokenWords);
    operands.gram = floats(2 * kAmxChunk * kAmxChunk);
    operands.minus_a = floats(kAmxChunk * kAmxChunk);
    operands.inverse = floats(kAmxChunk * kAmxChunk);
    operands.t = split_matrix(kAmxChunk * kTokenWords);
    operands.p = split_matrix(kAmxChunk * kTokenWords);
    operands.vectors = reinterpret_cast<AmxVectors*>(floats(sizeof(AmxVectors) / sizeof(float)));
    products = floats(2 * kAmxChunk * kPanel);
    residual = split_matrix(kTokenWords * kPanel);
    v_new_pairs = split_matrix(kTokenWords * kPanel);
    decayed = split_matrix(kTokenWords * kPanel);
    v_new = floats(kAmxChunk * kPanel);
    inside = floats(kAmxChunk * kPanel);
    change = floats(2 * kBlock * kPanel);
    slot_rows = floats(kPanel * K);
    bytes = used;
  }
};

inline size_t chunk_amx_scratch(const Shape& shape, const Split& split) {
  return ChunkAmxScratch(shape, split, nullptr).bytes;
}

// Rows k .. k + 1 of a panel to its bfloat16 copy.
HWY_INLINE void round_state_rows(const float* panel, int64_t k, uint32_t* copy) {
#pragma GCC unroll 16
  for (int j = 0; j < kVecs; ++j) {
    const float* s = panel + k * kPanel + j * kLanes;
    _mm512_storeu_si512(copy + k / 2 * kPanel + j * kLanes, make_pairs(load(s), load(s + kPanel)));
  }
}

struct PanelStepAmx : PanelRows<bf16> {
  Tiles& tiles;
  const ChunkAmxScratch& scratch;
  uint32_t* copy;  // the panel's, in bfloat16
  int64_t K;       // padded

  // S K or S Q for a block of rows.
  HWY_INLINE void multiply_state(int64_t first_row) const {
    const int64_t words = K / 2;
    zero_block(tiles);
    add_block(tiles, scratch.operands.rows + first_row * words, words, copy, kPanel,
              words / kTileWords);
    store_block(tiles, scratch.products + first_row * kPanel, kPanel);
  }

  // R = beta (V - exp(G) S K) for a block of rows, split. Zero for padding.
  HWY_INLINE void residuals(int64_t first_row) const {
    const F32 d;
    const AmxVectors& x = *scratch.operands.vectors;
    for (int64_t i = first_row; i < first_row + kBlock; i += 2) {
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        Vec residual[2];
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; ++odd) {
          const int64_t row = i + odd;
          const Vec v = HWY_LIKELY(row < count) ? load_columns(v_row(row), j) : hn::Zero(d);
          const Vec product = load(scratch.products + row * kPanel + j * kLanes);
          residual[odd] = hn::Mul(hn::Set(d, x.beta[row]),
                                  hn::NegMulAdd(hn::Set(d, x.read[row]), product, v));
        }
        const int64_t at = i / 2 * kPanel + j * kLanes;
        split_pairs(residual[0], residual[1], scratch.residual.high + at,
                    scratch.residual.low + at);
      }
    }
  }

  // V_new = T R for a block of rows; T is zero right of the block.
  HWY_INLINE void multiply_inverse(int64_t first_row) const {
    zero_block(tiles);
    add_block(tiles, scratch.operands.t, first_row, kTokenWords, scratch.residual, kPanel,
              first_row / kBlock + 1);
    store_block(tiles, scratch.v_new + first_row * kPanel, kPanel);
  }
  HWY_INLINE void split_v_new(int64_t first_row) const {
    const F32 d;
    const AmxVectors& x = *scratch.operands.vectors;
    for (int64_t i = first_row; i < first_row + kBlock; i += 2) {
      const Vec even_decay = hn::Set(d, x.to_end[i]), odd_decay = hn::Set(d, x.to_end[i + 1]);
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        const float* v_new = scratch.v_new + i * kPanel + j * kLanes;
        const Vec even = load(v_new), odd = load(v_new + kPanel);
        const int64_t at = i / 2 * kPanel + j * kLanes;
        split_pairs(even, odd, scratch.v_new_pairs.high + at, scratch.v_new_pairs.low + at);
        split_pairs(hn::Mul(even_decay, even), hn::Mul(odd_decay, odd), scratch.decayed.high + at,
                    scratch.decayed.low + at);
      }
    }
  }

  HWY_INLINE void solve() const {
    const int64_t rows = rows_of_blocks(count);
    for (int64_t i = 0; i < count; ++i) prefetch_row(v_row(i), panel.width);
    // The matrix unit is a block ahead of the vectors.
    for (int64_t r = 0; r < rows; r += kBlock) multiply_state(r);
    for (int64_t r = 0; r < rows; r += kBlock) {
      residuals(r);
      multiply_state(kAmxChunk + r);
    }
    for (int64_t r = 0; r < rows; r += kBlock) multiply_inverse(r);
    for (int64_t r = 0; r < rows; r += kBlock) split_v_new(r);
  }

  HWY_INLINE void output() const {
    const F32 d;
    const AmxVectors& x = *scratch.operands.vectors;
    const int64_t rows = rows_of_blocks(count);
    for (int64_t r = 0; r < rows; r += kBlock) {
      zero_block(tiles);
      add_block(tiles, scratch.operands.p, r, kTokenWords, scratch.v_new_pairs, kPanel,
                r / kBlock + 1);
      store_block(tiles, scratch.inside + r * kPanel, kPanel);
    }
    for (int64_t i = 0; i < count; ++i) {
      const Vec factor = hn::Set(d, x.output[i]);
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        const int64_t at = i * kPanel + j * kLanes;
        const Vec product = load(scratch.products + kAmxChunk * kPanel + at);
        store_columns(hn::MulAdd(factor, product, load(scratch.inside + at)), out_row(i), j);
      }
    }
  }

  // S <- exp(G_last) S + change for kBlock rows from k on, and the copy.
  HWY_INLINE void add_change(int64_t k, const float* change) const {
    const Vec whole = hn::Set(F32(), scratch.operands.vectors->whole);
    for (int64_t row = 0; row < kBlock; row += 2) {
      float* s = panel.state + (k + row) * kPanel;
      const float* by = change + row * kPanel;
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        const int64_t even = j * kLanes, odd = kPanel + j * kLanes;
        const Vec a = hn::MulAdd(whole, load(s + even), load(by + even));
        const Vec b = hn::MulAdd(whole, load(s + odd), load(by + odd));
        store(a, s + even);
        store(b, s + odd);
        _mm512_storeu_si512(copy + (k + row) / 2 * kPanel + j * kLanes, make_pairs(a, b));
      }
    }
  }

  HWY_INLINE void update_state() const {
    const int64_t steps = rows_of_blocks(count) / kBlock;
    const auto buffer = [&](int64_t k) { return scratch.change + k / kBlock % 2 * kBlock * kPanel; };
    for (int64_t k = 0; k < K; k += kBlock) {
      zero_block(tiles);
      add_block(tiles, scratch.operands.token_pairs + k * kTokenWords, kTokenWords,
                scratch.decayed, kPanel, steps);
      store_block(tiles, buffer(k), kPanel);
      if (k > 0) add_change(k - kBlock, buffer(k - kBlock));
    }
    add_change(K - kBlock, buffer(K - kBlock));
  }

  void update_and_store_every_state(int64_t n) const {
    const AmxVectors& x = *scratch.operands.vectors;
    for (int64_t i = 0; i < count; ++i) {
      const auto* key = reinterpret_cast<const uint16_t*>(scratch.operands.rows + i * K / 2);
      add_token(panel.state, K, x.step[i], scratch.v_new + i * kPanel,
                [&](int64_t k) { return bf16_to_float(key[k]) * x.norms[i]; });
      store_token_state(n, i, scratch.slot_rows);
    }
    for (int64_t k = 0; k < K; k += 2) round_state_rows(panel.state, k, copy);
  }
};

// What the chunk from token t0 on will read of k, q and v, to the second-level cache: the part-th of
// `parts` parts, so that the requests do not come all at once.
HWY_INLINE void prefetch_part_of_chunk(const DeltaRuleProblem& problem, const Sequence& sequence,
                                       int64_t t0, const Split& split, const Split::Task& task,
                                       int64_t part, int64_t parts) {
  const auto prefetch_l2 = [](const std::byte* row, int64_t elements) {
    for (int64_t byte = 0; byte < elements * 2; byte += 64) __builtin_prefetch(row + byte, 0, 2);
  };
  const int64_t count = std::min<int64_t>(kAmxChunk, sequence.length - t0);
  for (int64_t t = t0 + count * part / parts; t < t0 + count * (part + 1) / parts; ++t) {
    prefetch_l2(problem.k.at(sequence, t, task.head), problem.shape.K);
    prefetch_l2(problem.q.at(sequence, t, task.head), problem.shape.K);
    split.for_each_range(task, [&](int64_t head, int64_t first, int64_t last) {
      prefetch_l2(problem.v.at(sequence, t, head) + first * 2, last - first);
    });
  }
}

inline void chunk_amx(const DeltaRuleProblem& problem, const Split& split, int64_t index,
                      std::byte* base) {
  const Shape& shape = problem.shape;
  const Split::Task task = split.task(index);
  const Sequence sequence = problem.sequences.at(task.n);
  const InitialState initial = problem.initial(task.n);
  if (initial.skip) {
    split.for_each_range(task, [&](int64_t head, int64_t begin, int64_t end) {
      zero_columns(problem.out, sequence, head, begin, end);
    });
    return;
  }
  const ChunkAmxScratch scratch(shape, split, base);
  const AmxOperands& operands = scratch.operands;
  const int64_t K = amx_padded_k(shape.K), words = K / 2;
  const auto for_each = [&](const auto& body) {
    for_each_panel(split, task, K, scratch.state, body);
  };
  const auto copy_of = [&](const Panel& panel) {
    return scratch.copy + (panel.state - scratch.state) / 2;
  };
  const auto store_all = [&](std::byte* slot, DType dtype) {
    for_each(
        [&](const Panel& panel) { store_panel(shape, panel, slot, dtype, scratch.slot_rows); });
  };

  Tiles tiles;
  const bool past_caches = stores_past_caches(problem);
  int64_t panels = 0;
  for_each([&](const Panel& panel) {
    ++panels;
    load_panel(shape, initial.data, problem.initial_state.dtype, panel, scratch.slot_rows);
    std::fill(panel.state + padded_k(shape.K) * kPanel, panel.state + K * kPanel, 0.0f);
    for (int64_t k = 0; k < K; k += 2) round_state_rows(panel.state, k, copy_of(panel));
  });
  for (int64_t t0 = 0; t0 < sequence.length; t0 += kAmxChunk) {
    const int64_t count = std::min<int64_t>(kAmxChunk, sequence.length - t0);
    float* norms = operands.vectors->norms;
    pack_rows_for_tiles(problem, problem.k, sequence, t0, count, task.head, operands.rows, norms);
    pack_rows_for_tiles(problem, problem.q, sequence, t0, count, task.head,
                        operands.rows + kAmxChunk * words, norms + kAmxChunk);
    transpose(reinterpret_cast<const float*>(operands.rows), words, kAmxChunk, words,
              reinterpret_cast<float*>(operands.columns), kAmxChunk);
    pair_tokens_of_columns(operands, words);
    gram_of_tiles(tiles, operands, words, count);
    int64_t head = -1, number = 0;
    for_each([&](const Panel& panel) {
      if (panel.head != head) {
        head = panel.head;
        compute_amx_gates(problem, sequence, t0, count, head, operands);
        invert_for_tiles(operands, count);
      }
      if (t0 + kAmxChunk < sequence.length) {
        prefetch_part_of_chunk(problem, sequence, t0 + kAmxChunk, split, task, number, panels);
      }
      ++number;
      const PanelStepAmx step{{problem, sequence, panel, t0, count, past_caches},
                              tiles,
                              scratch,
                              copy_of(panel),
                              K};
      step.solve();
      step.output();
      // As in chunk_walk-inl.h: where the state after every token is asked for, token by token.
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
  if (past_caches) hwy::FlushStream();
  if (!problem.stores_every_state()) {
    if (std::byte* slot = problem.final_slot(task.n)) store_all(slot, problem.final_state.dtype);
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
