// The walk over a sequence's chunks that the float32 and the bfloat16 kernel share.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Words from a row of k or q to the next, in scratch: room for the largest head dimension of
// floats, and a cache line more, so that rows lie in different sets of the first-level cache. A
// constant, so that the eight rows of a tile are offsets in an instruction rather than registers.
constexpr int kRowStride = 256 + 16;

struct ChunkScratch {
  float* state;      // the task's panels
  float* rows;       // [2 kChunk][kRowStride]: k rows, then q rows
  float* columns;    // [padded_k][kChunk]: the k rows, transposed
  float* norms;      // [2 kChunk]: what the k rows, then the q rows, are to be multiplied with
  float* gram;       // [2 kChunk][kChunk], of the normalised rows
  float* v_new;      // [kChunk][kPanel]
  float* decayed;    // [kChunk][kPanel]: exp(G_last - G_i) norm(k_i) v_new_i
  float* slot_rows;  // [kPanel][K], for load_panel and store_panel
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
    rows = take(2 * kChunk * kRowStride);
    columns = take(kChunk * K);
    norms = take(2 * kChunk);
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

// S <- step S + v_new k^T on one panel; key(k) is element k of k.
template <class Key>
inline void add_token(float* state, int64_t K, float step, const float* v_new, const Key& key) {
  const F32 d;
  for (int64_t k = 0; k < K; ++k) {
    const Vec key_k = hn::Set(d, key(k));
    for (int j = 0; j < kVecs; ++j) {
      float* s = state + k * kPanel + j * kLanes;
      store(hn::MulAdd(key_k, load(v_new + j * kLanes), hn::Mul(hn::Set(d, step), load(s))), s);
    }
  }
}

// Runs one task. What the kernels do differently comes in as
//   loaded(panel)                      after a panel's initial state is there
//   pack(sequence, t0, count, head)    k, q and gram of a chunk of a q/k head
//   gated()                            after the gates of a value head are there
//   step(rows)                         makes the object with solve(), output(), update_state() and
//                                      update_and_store_every_state(n) for one panel of the chunk
template <class T, class Loaded, class Pack, class Gated, class MakeStep>
HWY_INLINE void walk_chunks(const DeltaRuleProblem& problem, const Split& split,
                            const Split::Task& task, const ChunkScratch& scratch,
                            const Loaded& loaded, const Pack& pack, const Gated& gated,
                            const MakeStep& make_step) {
  const Shape& shape = problem.shape;
  const Sequence sequence = problem.sequences.at(task.n);
  const InitialState initial = problem.initial(task.n);
  if (initial.skip) {
    split.for_each_range(task, [&](int64_t head, int64_t begin, int64_t end) {
      zero_columns(problem.out, sequence, head, begin, end);
    });
    return;
  }
  const auto for_each = [&](const auto& body) {
    for_each_panel(split, task, padded_k(shape.K), scratch.state, body);
  };
  const auto store_all = [&](std::byte* slot, DType dtype) {
    for_each(
        [&](const Panel& panel) { store_panel(shape, panel, slot, dtype, scratch.slot_rows); });
  };

  const bool past_caches = stores_past_caches(problem);
  int64_t panels = 0;
  for_each([&](const Panel& panel) {
    ++panels;
    load_panel(shape, initial.data, problem.initial_state.dtype, panel, scratch.slot_rows);
    loaded(panel);
  });
  for (int64_t t0 = 0; t0 < sequence.length; t0 += kChunk) {
    const int64_t count = std::min<int64_t>(kChunk, sequence.length - t0);
    pack(sequence, t0, count, task.head);
    int64_t head = -1;
    int64_t panels_left = panels;
    for_each([&](const Panel& panel) {
      if (panel.head != head) {
        head = panel.head;
        compute_chunk_gates(problem, sequence, t0, count, head, scratch.norms, scratch.gram,
                            *scratch.gates);
        gated();
      }
      const auto step = make_step(panel_rows<T>(problem, sequence, panel, t0, count, past_caches));
      prefetch_ahead<T>(problem, sequence, panel, t0 + kChunk, task.head, panels - panels_left,
                        panels);
      step.solve();
      step.output();
      // Strided rows evict one another from the first-level cache when fetched much earlier.
      if (--panels_left < 2) {
        prefetch_rows<T>(panels_left == 1 ? problem.k : problem.q, sequence, t0 + kChunk, task.head,
                         shape.K);
      }
      // Where the state after every token is asked for, the update goes token by token:
      // S_i = exp(g_i) S_i-1 + v_new_i k_i^T.
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
