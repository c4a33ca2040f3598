// Rows of v and out as the chunk kernels see them: the columns of one panel, for the tokens of one
// chunk.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Rows of consecutive tokens are too far apart for the hardware's prefetchers.
template <class T>
HWY_INLINE void prefetch_row(const T* row, int64_t elements) {
  const char* p = reinterpret_cast<const char*>(row);
  for (int64_t byte = 0; byte < elements * static_cast<int64_t>(sizeof(T)); byte += 64) {
    __builtin_prefetch(p + byte);
  }
}
// The same to the second-level cache. The empty asm is an effect: a function that only prefetches
// GCC takes for one without any, and where it does not inline it, it drops the calls.
HWY_INLINE void prefetch_row_to_l2(const std::byte* row, int64_t bytes) {
  for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(row + byte, 0, 2);
  asm volatile("");
}
// To the second-level cache, of what the chunk from token t0 on will read: the panel's columns of v
// and the panel's share, `part` of `parts`, of the rows of k and q. All of a chunk at once would be
// more than the processor can have under way, and the loads of the panel would wait behind it.
template <class T>
HWY_INLINE void prefetch_ahead(const DeltaRuleProblem& problem, const Sequence& sequence,
                               const Panel& panel, int64_t t0, int64_t key_head, int64_t part,
                               int64_t parts) {
  constexpr auto size = static_cast<int64_t>(sizeof(T));
  const int64_t count = std::min<int64_t>(kChunk, sequence.length - t0);
  for (int64_t i = 0; i < count; ++i) {
    prefetch_row_to_l2(problem.v.at(sequence, t0 + i, panel.head) + panel.column * size,
                       kPanel * size);
  }
  for (int64_t i = count * part / parts; i < count * (part + 1) / parts; ++i) {
    prefetch_row_to_l2(problem.k.at(sequence, t0 + i, key_head), problem.shape.K * size);
    prefetch_row_to_l2(problem.q.at(sequence, t0 + i, key_head), problem.shape.K * size);
  }
}
// To the first-level cache: the rows of the chunk from token t0 on.
template <class T>
HWY_INLINE void prefetch_rows(const TokenTensor& tensor, const Sequence& sequence, int64_t t0,
                              int64_t head, int64_t elements) {
  const int64_t end = std::min<int64_t>(t0 + kChunk, sequence.length);
  for (int64_t t = t0; t < end; ++t) {
    prefetch_row(reinterpret_cast<const T*>(tensor.at(sequence, t, head)), elements);
  }
}

inline bool stores_past_caches(const DeltaRuleProblem& problem) {
  const Shape& shape = problem.shape;
  return stores_past_caches(problem.out, shape.tokens * shape.value_heads * shape.V) &&
         kPanel * size_of(problem.out.dtype) % 64 == 0;
}

// The rows of one panel in one chunk. Addresses are members rather than expressions on the problem:
// the compiler would work those out again after every store.
template <class T>
struct PanelRows {
  const DeltaRuleProblem& problem;
  Panel panel;
  int64_t t0;        // first token of the chunk
  int64_t count;     // its tokens; the rest of the chunk is padding
  bool past_caches;  // how out is stored
  const T* first_v;  // the panel's columns of token t0
  int64_t v_stride;  // to the next token's
  T* first_out;
  int64_t out_stride;

  HWY_INLINE const T* v_row(int64_t i) const { return first_v + i * v_stride; }
  HWY_INLINE T* out_row(int64_t i) const { return first_out + i * out_stride; }

  // Whether rows r .. r + kRows - 1 are all there, and the panel is as wide as any.
  HWY_INLINE bool is_full_tile(int r) const { return r + kRows <= count && panel.width == kPanel; }

  // To the first-level cache, whether there are so many tokens and columns or not: a prefetch never
  // faults.
  HWY_INLINE void prefetch_values(int r) const {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) prefetch_row(v_row(r + i), kPanel);
  }
  // Vector j of row i of v; what is past the tokens or the width is zero.
  template <bool kFullTile>
  HWY_INLINE Vec value(int i, int j) const {
    if constexpr (kFullTile) return load(v_row(i) + j * kLanes);
    const int64_t left = i < count ? panel.width - j * kLanes : 0;
    if (left <= 0) return hn::Zero(F32());
    return left < kLanes ? load_n(v_row(i) + j * kLanes, left) : load(v_row(i) + j * kLanes);
  }

  // Rows r .. r + kRows - 1 of out, as far as there are tokens.
  HWY_INLINE void store_output(const Tile<kRows, kVecs>& tile, int r) const {
    if (HWY_LIKELY(is_full_tile(r))) {
      T* row = out_row(r);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i, row += out_stride) store_full_row(tile.at[i], row);
      return;
    }
    for (int i = 0; i < kRows && r + i < count; ++i) store_part_of_row(tile.at[i], out_row(r + i));
  }
  // A row as wide as any panel's, and one that may be less wide.
  HWY_INLINE void store_full_row(const Vec (&x)[kVecs], T* row) const {
    if (past_caches) {
      store_vectors<true>(x, row);
    } else {
      store_vectors<false>(x, row);
    }
  }
  HWY_INLINE void store_part_of_row(const Vec (&x)[kVecs], T* row) const {
    for (int j = 0; j < kVecs; ++j) {
      const int64_t left = panel.width - j * kLanes;
      if (left > 0) store_n(x[j], row + j * kLanes, std::min<int64_t>(left, kLanes));
    }
  }
  // The panel's state after token i of the chunk, where it is asked for.
  void store_token_state(int64_t n, int64_t i, float* slot_rows) const {
    if (std::byte* slot = problem.final_slot(n, t0 + i)) {
      store_panel(problem.shape, panel, slot, problem.final_state.dtype, slot_rows);
    }
  }
};

template <class T>
HWY_INLINE PanelRows<T> panel_rows(const DeltaRuleProblem& problem, const Sequence& sequence,
                                   const Panel& panel, int64_t t0, int64_t count,
                                   bool past_caches) {
  const auto row = [&](const TokenTensor& tensor) {
    return reinterpret_cast<T*>(tensor.at(sequence, t0, panel.head)) + panel.column;
  };
  return {problem,
          panel,
          t0,
          count,
          past_caches,
          row(problem.v),
          problem.v.token_stride,
          row(problem.out),
          problem.out.token_stride};
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
