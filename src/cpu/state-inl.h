// What the token-by-token kernels do to the state of one value head: a token's step, the fold of a
// recorded token, a copy. All of them take any range of V columns, both layouts and every dtype,
// and do the same arithmetic on an element whatever the range, so that neither a split of V nor a
// pause in memory between two tokens changes a bit.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Some columns of V of one head's state. Layout VK: rows of K elements, one per column of V,
// `stride` apart; layout KV: K rows.
struct StateBlock {
  std::byte* data = nullptr;  // nullptr: nowhere, where a state may be dropped
  DType dtype = DType::kF32;
  int64_t stride = 0;
  bool in_pool = false;  // and therefore probably not in the cache
  // In a pool, layout VK: what is read after the block, for prefetches; nullptr: what follows it.
  const std::byte* next = nullptr;
};

// Where the columns of a head's state lie, in a slot and in scratch.
struct StateShape {
  StateLayout layout;
  int64_t K, V;

  bool rows() const { return layout == StateLayout::kVK; }
  // Columns that are worth a visit of their own when the running state is kept in scratch.
  int64_t block() const { return rows() ? kVisitedRows : kStrip * kLanes; }

  StateBlock in_slot(std::byte* slot, DType dtype, int64_t head, int64_t column) const {
    const int64_t offset = rows() ? (head * V + column) * K : head * K * V + column;
    return {slot + offset * size_of(dtype), dtype, rows() ? K : V, true, nullptr};
  }
  // Column `column` of `width` in scratch.
  StateBlock in_scratch(float* scratch, int64_t width, int64_t column) const {
    return {reinterpret_cast<std::byte*>(scratch + (rows() ? column * padded(K) : column)),
            DType::kF32, rows() ? padded(K) : padded(width), false, nullptr};
  }
  // The block without its first n columns.
  StateBlock after(const StateBlock& block, int64_t n) const {
    if (block.data == nullptr) return block;
    const int64_t offset = rows() ? n * block.stride : n;
    StateBlock rest = block;
    rest.data += offset * size_of(block.dtype);
    return rest;
  }
  int64_t scratch_floats(int64_t width) const {
    return rows() ? width * padded(K) : K * padded(width);
  }
};

// Calls body(From* from, To* to) with the element types of two blocks.
template <class Body>
HWY_INLINE void with_elements(const StateBlock& from, const StateBlock& to, const Body& body) {
  with_element(from.dtype, [&](auto from_element) {
    with_element(to.dtype, [&](auto to_element) {
      body(reinterpret_cast<const decltype(from_element)*>(from.data),
           reinterpret_cast<decltype(to_element)*>(to.data));
    });
  });
}

// The way of prefetches over some columns of a block.
inline Way way_of(const StateBlock& block, int64_t width) {
  return {block.data + width * block.stride * size_of(block.dtype), block.next};
}

// One token: v_new and out of the columns, and to <- decay from + v_new k^T. `to` may be `from`, or
// nowhere.
inline void step(const StateShape& shape, const StateBlock& from, const StateBlock& to,
                 const Token& token, const TokenColumns& columns, int64_t width) {
  const Way way = way_of(from, width);
  with_elements(from, to, [&](const auto* p, auto* q) {
    if (!shape.rows()) {
      step_columns(p, from.stride, q, to.stride, token, columns, shape.K, width);
    } else if (from.in_pool) {
      step_rows<true>(p, from.stride, q, to.stride, token, columns, shape.K, width, way);
    } else {
      step_rows<false>(p, from.stride, q, to.stride, token, columns, shape.K, width, way);
    }
  });
}

// Tokens that a task may have prepared at once.
constexpr int64_t kMostOperands = kTile;

// What takes a task's steps. This is step(), which needs nothing done before it. InPlaceDots
// (state_in_place-inl.h) and TileDots (state_tiles-inl.h) are the others; the latter says what the
// arguments are.
struct VectorDots {
  static bool reads_rows(const StateShape&, DType) { return true; }
  void prepare(int64_t, const Token&, const GivenHead&) {}
  void step(const StateShape& shape, const StateBlock& from, const StateBlock& to,
            const Token& token, const TokenColumns& columns, int64_t width, int64_t, int64_t) {
    gdn::cpu::GDN_ISA::step(shape, from, to, token, columns, width);
  }
};
#if !defined(GDN_ISA_HAS_STATE_TILES) && !defined(GDN_ISA_WALKS_STATES)
inline int64_t dots_floats(const StateShape&) { return 0; }
// Calls body(dots) with what takes the steps of a problem.
template <class Body>
HWY_INLINE void with_dots(const DeltaRuleProblem&, const StateShape&, Carver&, const Body& body) {
  VectorDots dots;
  body(dots);
}
#endif

// to <- decay from + v_new k^T.
inline void fold(const StateShape& shape, const StateBlock& from, const StateBlock& to,
                 const float* k, float decay, const float* v_new, int64_t width) {
  with_elements(from, to, [&](const auto* p, auto* q) {
    if (!shape.rows()) {
      fold_columns(p, from.stride, q, to.stride, k, decay, v_new, shape.K, width);
    } else if (from.in_pool) {
      fold_rows<true>(p, from.stride, q, to.stride, k, decay, v_new, shape.K, width);
    } else {
      fold_rows<false>(p, from.stride, q, to.stride, k, decay, v_new, shape.K, width);
    }
  });
}

template <class T>
HWY_INLINE void copy_row(const T* from, int64_t n, T* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
}
template <class From, class To>
HWY_INLINE void copy_row(const From* from, int64_t n, To* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_state(load(from + i), to + i);
  if (i < n) store_state_n(load_n(from + i, n - i), to + i, n - i);
}

inline void copy_state(const StateShape& shape, const StateBlock& from, const StateBlock& to,
                       int64_t width) {
  const int64_t rows = shape.rows() ? width : shape.K;
  const int64_t n = shape.rows() ? shape.K : width;
  with_elements(from, to, [&](const auto* p, auto* q) {
    for (int64_t row = 0; row < rows; ++row) {
      copy_row(p + row * from.stride, n, q + row * to.stride);
    }
  });
}

inline void zero_state(const StateShape& shape, const StateBlock& to, int64_t width) {
  const int64_t rows = shape.rows() ? width : shape.K;
  const int64_t bytes = (shape.rows() ? shape.K : width) * size_of(to.dtype);
  for (int64_t row = 0; row < rows; ++row) {
    std::memset(to.data + row * to.stride * size_of(to.dtype), 0, static_cast<size_t>(bytes));
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
