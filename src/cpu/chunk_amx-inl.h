// Prefill with bfloat16 operands on AMX's tiles: chunks of 64 tokens, all products on the matrix
// unit, which does sixteen times what the vector unit can; what is left for vectors is copying,
// scaling and the inverse. Steps of a chunk:
//
// 1. Per q/k head: pack k and q, gram (chunk_amx_gates-inl.h).
// 2. Per value head: decays, P, -A and T = (I + A)^-1, in float32, P and T then split.
// 3. Per panel of 32 V columns, all of it before the next panel:
//      S K; R = beta (V - exp(G) S K); V_new = T R;
//      S Q; O = scale exp(G) S Q + P V_new;
//      S <- exp(G_last) S + K^T (exp(G_last - G) V_new), and its bfloat16 copy.
//
// q and k are never rounded again, and the state is rounded for S K and S Q only, as in
// chunk_bf16-inl.h. That kernel rounds V_new for the update and makes up for it in the
// substitution; here there is none left to do so in, and on identical keys the rows of V_new
// cancel. So T, R, P and V_new are split into two parts each (SplitMatrix), whose products are
// right to 2^-14, two or three times as many, and cheap. (R might be rounded, which is as if v were
// another v within a rounding: states are then off by 1.6e-3 in place of 1e-4, and no time is won.)

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

struct ChunkAmxScratch {
  float* state;    // the task's panels, [K][kPanel] each
  uint32_t* copy;  // in bfloat16: [K / 2][kPanel] pairs along K each
  AmxOperands operands;
  SplitMatrix residual;  // [kTokenWords][kPanel] token pairs, as are the next two
  SplitMatrix v_new_pairs;
  SplitMatrix decayed;  // exp(G_last - G_i) v_new_i
  // [kAmxChunk][kPanel] each: products as they leave the tiles. Few, so that they stay in the
  // first-level cache.
  float* products;    // S K; then S Q and P V_new of the first block; then the state's change
  float* v_new;       // V_new; then S Q and P V_new of the last block
  float* kept_v_new;  // V_new where the state after every token is asked for
  float* slot_rows;   // [kPanel][K], for load_panel and store_panel
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
    residual = split_matrix(kTokenWords * kPanel);
    v_new_pairs = split_matrix(kTokenWords * kPanel);
    decayed = split_matrix(kTokenWords * kPanel);
    products = floats(kAmxChunk * kPanel);
    v_new = floats(kAmxChunk * kPanel);
    kept_v_new = floats(kAmxChunk * kPanel);
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

// What the next chunk, from token t0 on, will read, to the second-level cache: v's columns of this
// panel, and of k and q the part-th of `parts` parts, a few rows each time. Requests that come all
// at once fill the buffers that the tiles' loads need too.
struct ReadAhead {
  struct Rows {
    const std::byte* first;
    int64_t stride;  // bytes, as all here
  };
  Rows v, k, q;
  int64_t v_count, kq_count;
  int64_t row_bytes;  // of k and q

  ReadAhead(const DeltaRuleProblem& problem, const Sequence& sequence, const Panel& panel,
            int64_t q_head, int64_t t0, int64_t part, int64_t parts) {
    constexpr auto size = static_cast<int64_t>(sizeof(bf16));
    const auto rows = [&](const TokenTensor& tensor, int64_t t, int64_t head, int64_t column) {
      return Rows{tensor.at(sequence, t, head) + column * size, tensor.token_stride * size};
    };
    v_count = std::clamp<int64_t>(sequence.length - t0, 0, kAmxChunk);
    const int64_t first = v_count * part / parts;
    kq_count = v_count * (part + 1) / parts - first;
    row_bytes = problem.shape.K * size;
    v = rows(problem.v, t0, panel.head, panel.column);
    k = rows(problem.k, t0 + first, q_head, 0);
    q = rows(problem.q, t0 + first, q_head, 0);
  }
  // For i from 0 to 47: in the first 16 v, then k and q.
  HWY_INLINE void next(int64_t i) const {
    if (i < 16) {
      const int64_t end = v_count * (i + 1) / 16;
      for (int64_t t = v_count * i / 16; t < end; ++t) {
        prefetch_row_to_l2(v.first + t * v.stride, 1);
      }
    } else if (i < 48) {
      const int64_t end = kq_count * (i - 15) / 32;
      for (int64_t t = kq_count * (i - 16) / 32; t < end; ++t) {
        prefetch_row_to_l2(k.first + t * k.stride, row_bytes);
        prefetch_row_to_l2(q.first + t * q.stride, row_bytes);
      }
    }
  }
};

struct PanelStepAmx : PanelRows<bf16> {
  Tiles& tiles;
  const ChunkAmxScratch& scratch;
  uint32_t* copy;  // the panel's, in bfloat16
  int64_t K;       // padded
  ReadAhead ahead;

  // The four products, a block of rows each (of the state's change: of its rows).
  HWY_INLINE auto state_times_rows(int64_t first_row) const {
    const int64_t words = K / 2;
    return product_of(scratch.operands.rows + first_row * words, words, copy, kPanel,
                      words / kTileWords);
  }
  // T and P are zero right of the block on the diagonal.
  HWY_INLINE auto inverse_times_residual(int64_t first_row) const {
    return product_of(scratch.operands.t, first_row, kTokenWords, scratch.residual, kPanel,
                      first_row / kBlock + 1);
  }
  HWY_INLINE auto attention_times_v_new(int64_t first_row) const {
    return product_of(scratch.operands.p, first_row, kTokenWords, scratch.v_new_pairs, kPanel,
                      first_row / kBlock + 1);
  }
  HWY_INLINE auto keys_times_v_new(int64_t k) const {
    return product_of(scratch.operands.token_pairs + k * kTokenWords, kTokenWords, scratch.decayed,
                      kPanel, rows_of_blocks(count) / kBlock);
  }

  // And what the vectors do with rows of a block: two, i and i + 1, or a tile from i on.

  // R = beta (V - exp(G) S K), split; zero for padding.
  template <bool kFullTile>
  HWY_INLINE void residual(int64_t i) const {
    const F32 d;
    const AmxVectors& x = *scratch.operands.vectors;
#pragma GCC unroll 16
    for (int j = 0; j < kVecs; ++j) {
      Vec rows[2];
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; ++odd) {
        const int64_t row = i + odd;
        const Vec v = this->template value<kFullTile>(static_cast<int>(row), j);
        const Vec product = load(scratch.products + row * kPanel + j * kLanes);
        rows[odd] =
            hn::Mul(hn::Set(d, x.beta[row]), hn::NegMulAdd(hn::Set(d, x.read[row]), product, v));
      }
      const int64_t at = i / 2 * kPanel + j * kLanes;
      split_pairs(rows[0], rows[1], scratch.residual.high + at, scratch.residual.low + at);
    }
  }
  // V_new and its decayed copy, split.
  HWY_INLINE void split_v_new(const float* all, int64_t i) const {
    const F32 d;
    const AmxVectors& x = *scratch.operands.vectors;
    const Vec even_decay = hn::Set(d, x.to_end[i]), odd_decay = hn::Set(d, x.to_end[i + 1]);
#pragma GCC unroll 16
    for (int j = 0; j < kVecs; ++j) {
      const float* v_new = all + i * kPanel + j * kLanes;
      const Vec even = load(v_new), odd = load(v_new + kPanel);
      const int64_t at = i / 2 * kPanel + j * kLanes;
      split_pairs(even, odd, scratch.v_new_pairs.high + at, scratch.v_new_pairs.low + at);
      split_pairs(hn::Mul(even_decay, even), hn::Mul(odd_decay, odd), scratch.decayed.high + at,
                  scratch.decayed.low + at);
    }
  }
  // O = scale exp(G) S Q + P V_new.
  HWY_INLINE void output_tile(const float* queries, const float* inside, int64_t i) const {
    Tile<kRows, kVecs> tile;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec factor = hn::Set(F32(), scratch.operands.vectors->output[i + r]);
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        const int64_t at = (i % kBlock + r) * kPanel + j * kLanes;
        tile.at[r][j] = hn::MulAdd(factor, load(queries + at), load(inside + at));
      }
    }
    store_output(tile, static_cast<int>(i));
  }
  // S <- exp(G_last) S + change, and the copy.
  HWY_INLINE void add_change(int64_t i, const float* change) const {
    const Vec whole = hn::Set(F32(), scratch.operands.vectors->whole);
    float* s = panel.state + i * kPanel;
#pragma GCC unroll 16
    for (int j = 0; j < kVecs; ++j) {
      const int64_t even = j * kLanes, odd = kPanel + j * kLanes;
      const Vec a = hn::MulAdd(whole, load(s + even), load(change + even));
      const Vec b = hn::MulAdd(whole, load(s + odd), load(change + odd));
      store(a, s + even);
      store(b, s + odd);
      _mm512_storeu_si512(copy + i / 2 * kPanel + j * kLanes, make_pairs(a, b));
    }
  }

  // The chunk on this panel: each product beside the vectors' work on an earlier one.
  HWY_INLINE void run(int64_t n) const {
    const int64_t rows = rows_of_blocks(count), last = rows - kBlock;
    const bool every_state = problem.stores_every_state();
    float* const v_new = every_state ? scratch.kept_v_new : scratch.v_new;
    // The four blocks that products go to.
    constexpr int64_t kSize = kBlock * kPanel;
    float *const a = scratch.products, *const b = a + kSize;
    float *const c = scratch.v_new, *const e = c + kSize;

    // A part of the vectors' work is a tile's rows.
    static_assert(kParts * kRows == kBlock);
    const auto nothing = [](int64_t) {};
    const auto residuals = [&](int64_t r) {
      // Of rows that are all there, and a whole panel, in the common case.
      return [=, this, full = r + kBlock <= count && panel.width == kPanel](int64_t part) {
        for (int64_t i = r + part * kRows; i < r + (part + 1) * kRows; i += 2) {
          full ? residual<true>(i) : residual<false>(i);
        }
      };
    };
    const auto splits = [&](int64_t r) {
      return [=, this](int64_t part) {
        for (int64_t i = r + part * kRows; i < r + (part + 1) * kRows; i += 2) {
          split_v_new(v_new, i);
        }
      };
    };
    const auto outputs = [&](int64_t r, const float* queries, const float* inside) {
      return [=, this](int64_t part) { output_tile(queries, inside, r + part * kRows); };
    };
    int64_t read = 0;
    const auto beside = [&](const auto& product, float* to, const auto& work) {
      multiply_beside(tiles, product, to, kPanel, [&](int64_t part) {
        ahead.next(read++);
        work(part);
      });
    };
    const auto alone = [&](const auto& work) {
      for (int64_t part = 0; part < kParts; ++part) work(part);
    };

    beside(state_times_rows(0), a, nothing);
    if (last > 0) {
      beside(state_times_rows(last), b, residuals(0));
      beside(inverse_times_residual(0), v_new, residuals(last));
      beside(inverse_times_residual(last), v_new + kSize, splits(0));
      beside(state_times_rows(kAmxChunk), a, splits(last));
      beside(attention_times_v_new(0), b, nothing);
      beside(state_times_rows(kAmxChunk + last), c, outputs(0, a, b));
      beside(attention_times_v_new(last), e, nothing);
    } else {
      alone(residuals(0));
      beside(inverse_times_residual(0), v_new, nothing);
      beside(state_times_rows(kAmxChunk), c, splits(0));
      beside(attention_times_v_new(0), e, nothing);
    }

    // As in chunk_walk-inl.h: where the state after every token is asked for, token by token.
    if (HWY_UNLIKELY(every_state)) {
      alone(outputs(last, c, e));
      update_and_store_every_state(n);
      return;
    }
    const auto change = [&](int64_t k) { return k / kBlock % 2 == 0 ? a : b; };
    const auto add = [&](int64_t k) {
      return [=, this, by = change(k)](int64_t part) {
        for (int64_t i = part * kRows; i < (part + 1) * kRows; i += 2) {
          add_change(k + i, by + i * kPanel);
        }
      };
    };
    beside(keys_times_v_new(0), change(0), outputs(last, c, e));
    for (int64_t k = kBlock; k < K; k += kBlock) {
      beside(keys_times_v_new(k), change(k), add(k - kBlock));
    }
    alone(add(K - kBlock));
  }

  void update_and_store_every_state(int64_t n) const {
    const AmxVectors& x = *scratch.operands.vectors;
    for (int64_t i = 0; i < count; ++i) {
      const auto* key = reinterpret_cast<const uint16_t*>(scratch.operands.rows + i * K / 2);
      add_token(panel.state, K, x.step[i], scratch.kept_v_new + i * kPanel,
                [&](int64_t k) { return bf16_to_float(key[k]) * x.norms[i]; });
      store_token_state(n, i, scratch.slot_rows);
    }
    for (int64_t k = 0; k < K; k += 2) round_state_rows(panel.state, k, copy);
  }
};

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
      const PanelStepAmx step{
          panel_rows<bf16>(problem, sequence, panel, t0, count, past_caches),
          tiles,
          scratch,
          copy_of(panel),
          K,
          ReadAhead(problem, sequence, panel, task.head, t0 + kAmxChunk, number++, panels)};
      step.run(task.n);
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
