// Prefill with bfloat16 operands on AMX's tiles: chunks of 64 tokens, all products on the matrix
// unit, which does sixteen times what the vector unit can; what is left for vectors is copying,
// scaling and the inverse. Steps of a chunk:
//
// 1. Per q/k head: pack k and q, gram (chunk_amx_gates-inl.h).
// 2. Per value head: decays, P, -A and the inverse of I + A, in float32; P and T then split.
// 3. Per panel of 32 V columns (chunk_amx_panel-inl.h):
//      S K; R = V - exp(G) S K; U = T R, where U is exp(G_last - G) V_new;
//      O = scale exp(G) (S Q + P U);
//      S <- exp(G_last) S + K^T U, and its bfloat16 copy.
//
// q and k are never rounded again, and the state is rounded for S K and S Q only, as in
// chunk_bf16-inl.h. That kernel rounds V_new for the update and makes up for it in the
// substitution; here there is none left to do so in, and on identical keys the rows of V_new
// cancel. So T, R, P and U are split into two parts each (SplitMatrix), whose products are right to
// 2^-14, two or three times as many, and cheap. (R might be rounded, which is as if v were another
// v within a rounding: states are then off by 1.6e-3 in place of 1e-4.)

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

struct ChunkAmxScratch {
  int64_t state_floats;  // of one q/k head's panels, [K][kPanel] each
  float* state;          // the task's, q/k head by q/k head
  uint32_t* copy;        // in bfloat16: [K / 2][kPanel] pairs along K each
  AmxOperands operands;
  AmxHead head;
  SplitMatrix u;      // of PanelAmx
  float* blocks;      // of PanelsAmx
  float* kept_v_new;  // [kAmxChunk][kPanel]
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
    state_floats = panel_floats(split.max_units(), K);
    state = floats(split.together * state_floats);
    copy = pairs(split.together * state_floats / 2);
    operands.rows = pairs(2 * kAmxChunk * words);
    operands.columns = pairs(words * kAmxChunk);
    operands.token_pairs = pairs(K * kTokenWords);
    operands.gram = floats(AmxOperands::kGramFloats);
    operands.norms = floats(2 * kAmxChunk);
    operands.minus_a = floats(kAmxChunk * kAmxChunk);
    operands.inverse = floats(kAmxChunk * kAmxChunk);
    head.t = split_matrix(kAmxChunk * kTokenWords);
    head.p = split_matrix(kAmxChunk * kTokenWords);
    head.scaled_queries = pairs(kAmxChunk * words);
    head.scaled_token_pairs = pairs(K * kTokenWords);
    head.vectors = reinterpret_cast<AmxVectors*>(floats(sizeof(AmxVectors) / sizeof(float)));
    u = split_matrix(kTokenWords * kPanel);
    blocks = floats(PanelsAmx::kBlocks * PanelsAmx::kBlockFloats);
    kept_v_new = floats(kAmxChunk * kPanel);
    slot_rows = floats(kPanel * K);
    bytes = used;
  }
};

inline size_t chunk_amx_scratch(const Shape& shape, const Split& split) {
  return ChunkAmxScratch(shape, split, nullptr).bytes;
}

// Where the state after every token is asked for: token by token, as in chunk_walk-inl.h.
inline void update_and_store_every_state(const PanelAmx& panel, int64_t n, int64_t K,
                                         const ChunkAmxScratch& scratch) {
  const AmxVectors& x = *panel.head.vectors;
  float* state = panel.panel.state;
  for (int64_t i = 0; i < panel.count; ++i) {
    const auto* key = reinterpret_cast<const uint16_t*>(panel.head.operands->rows + i * K / 2);
    const float norm = panel.head.operands->norms[i];
    add_token(state, K, x.step[i], panel.kept_v_new + i * kPanel,
              [&](int64_t k) { return bf16_to_float(key[k]) * norm; });
    panel.store_token_state(n, i, scratch.slot_rows);
  }
  for (int64_t k = 0; k < K; k += 2) round_state_rows(state, k, panel.copy);
}

inline void chunk_amx(const DeltaRuleProblem& problem, const Split& split, int64_t index,
                      std::byte* base) {
  const Shape& shape = problem.shape;
  const Split::Task task = split.task(index * split.together);
  const Sequence sequence = problem.sequences.at(task.n);
  const InitialState initial = problem.initial(task.n);
  if (initial.skip) {
    for (int64_t i = 0; i < split.together; ++i) {
      split.for_each_range({task.n, task.head + i, task.part},
                           [&](int64_t head, int64_t begin, int64_t end) {
                             zero_columns(problem.out, sequence, head, begin, end);
                           });
    }
    return;
  }
  ChunkAmxScratch scratch(shape, split, base);
  const int64_t K = amx_padded_k(shape.K), words = K / 2;
  // Of the i-th q/k head of the task; of all.
  const auto for_each_of = [&](int64_t i, const auto& body) {
    for_each_panel(split, {task.n, task.head + i, task.part}, K,
                   scratch.state + i * scratch.state_floats, body);
  };
  const auto for_each = [&](const auto& body) {
    for (int64_t i = 0; i < split.together; ++i) for_each_of(i, body);
  };
  const auto copy_of = [&](const Panel& panel) {
    return scratch.copy + (panel.state - scratch.state) / 2;
  };
  const auto store_all = [&](std::byte* slot, DType dtype) {
    for_each(
        [&](const Panel& panel) { store_panel(shape, panel, slot, dtype, scratch.slot_rows); });
  };

  Tiles tiles;
  const AmxOperands& operands = scratch.operands;
  PanelsAmx products(tiles, K, scratch.blocks);
  const bool every_state = problem.stores_every_state();
  const bool past_caches = stores_past_caches(problem);
  int64_t panels = 0;
  for_each_of(0, [&](const Panel&) { ++panels; });
  for_each([&](const Panel& panel) {
    load_panel(shape, initial.data, problem.initial_state.dtype, panel, scratch.slot_rows);
    std::fill(panel.state + padded_k(shape.K) * kPanel, panel.state + K * kPanel, 0.0f);
    for (int64_t k = 0; k < K; k += 2) round_state_rows(panel.state, k, copy_of(panel));
  });
  for (int64_t t0 = 0; t0 < sequence.length; t0 += kAmxChunk) {
    const int64_t count = std::min<int64_t>(kAmxChunk, sequence.length - t0), end = t0 + count;
    for (int64_t i = 0; i < split.together; ++i) {
      const int64_t q_head = task.head + i;
      pack_rows_for_tiles(problem, problem.k, sequence, t0, count, q_head, operands.rows,
                          operands.norms);
      pack_rows_for_tiles(problem, problem.q, sequence, t0, count, q_head,
                          operands.rows + kAmxChunk * words, operands.norms + kAmxChunk);
      transpose(reinterpret_cast<const float*>(operands.rows), words, kAmxChunk, words,
                reinterpret_cast<float*>(operands.columns), kAmxChunk);
      pair_tokens_of_columns(operands, words);
      gram_of_tiles(tiles, operands, words, count);
      int64_t head = -1, number = 0;
      std::optional<PanelAmx> steps[2];  // of a panel and the one before it
      for_each_of(i, [&](const Panel& panel) {
        if (panel.head != head) {
          products.end();
          head = panel.head;
          compute_amx_gates(problem, sequence, t0, count, head, operands, &scratch.head);
          invert_for_tiles(operands, count, scratch.head);
        }
        PanelAmx& step = steps[number % 2].emplace(PanelAmx{
            panel_rows<bf16>(problem, sequence, panel, t0, count, past_caches), scratch.head,
            copy_of(panel), scratch.u, every_state ? scratch.kept_v_new : nullptr,
            ReadAhead(problem, sequence, panel, q_head, end, number, panels)});
        ++number;
        if (HWY_UNLIKELY(every_state)) {
          products.run_without_update(step);
          update_and_store_every_state(step, task.n, K, scratch);
        } else {
          products.run(step);
        }
      });
      products.end();
    }
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
