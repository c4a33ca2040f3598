// What the token-by-token kernels do to the state of one value head: a token's step, the fold of a
// recorded token, a copy. All of them take any range of V columns, both layouts and every dtype,
// and do the same arithmetic on an element whatever the range, so that neither a split of V nor a
// pause in memory between two tokens changes a bit.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Scratch rows are padded to whole vectors; 16 floats suit every instruction set and a cache line.
constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// Some columns of V of one head's state. Layout VK: rows of K elements, one per column of V,
// `stride` apart; layout KV: K rows.
struct StateBlock {
  std::byte* data = nullptr;  // nullptr: nowhere, where a state may be dropped
  DType dtype = DType::kF32;
  int64_t stride = 0;
  bool in_pool = false;  // and therefore probably not in the cache
};

// q and k as floats with zeros up to padded(K); the gates of one value head.
struct Token {
  const float* q;
  const float* k;
  float kq;  // k . q
  float decay;
  float beta;
  float scale;
};

// Of the block's columns, padded to whole vectors: what a step reads and what it computes.
struct TokenColumns {
  const float* v;
  float* v_new;
  float* out;
};

HWY_INLINE void prefetch_for_write(const void* p) {
#if defined(__x86_64__) && HWY_TARGET != HWY_SCALAR
  // Every processor with AVX2 has it; the compiler wants a flag to emit it.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p)));
#else
  __builtin_prefetch(p, 1);
#endif
}

// ---- Layout VK
// ----------------------------------------------------------------------------------- Four rows
// (one on the scalar target) at a time: dot products with k and q together, the lanes of the four
// summed by one transposition.

constexpr int kQuad = kLanes < 4 ? 1 : 4;
using F32x4 = hn::CappedTag<float, kQuad>;
using Quad = hn::Vec<F32x4>;

// At least eight partial sums to a dot product, which keeps its error well below 1e-6.
constexpr int kPartial = kLanes < 8 ? 8 / kLanes : 1;

// Rows whose update follows their dot products while they are in the first-level cache.
constexpr int64_t kRowBlock = 8;

#if HWY_TARGET != HWY_SCALAR
template <class D>
HWY_INLINE auto fold_halves(D d, hn::Vec<D> x) {
  if constexpr (hn::MaxLanes(d) <= kQuad) {
    return x;
  } else {
    const hn::Half<D> half;
    return fold_halves(half, hn::Add(hn::LowerHalf(half, x), hn::UpperHalf(half, x)));
  }
}
#endif

// Lane i of the result is the sum of the lanes of x[i].
HWY_INLINE Quad sums_of_lanes(const Vec (&x)[kQuad]) {
#if HWY_TARGET == HWY_SCALAR
  return x[0];
#else
  const F32 d;
  const hn::Repartition<double, F32> pairs;
  const Vec x01 = hn::Add(hn::InterleaveLower(d, x[0], x[1]), hn::InterleaveUpper(d, x[0], x[1]));
  const Vec x23 = hn::Add(hn::InterleaveLower(d, x[2], x[3]), hn::InterleaveUpper(d, x[2], x[3]));
  const auto p01 = hn::BitCast(pairs, x01), p23 = hn::BitCast(pairs, x23);
  const Vec lower = hn::BitCast(d, hn::InterleaveLower(pairs, p01, p23));
  const Vec upper = hn::BitCast(d, hn::InterleaveUpper(pairs, p01, p23));
  return fold_halves(d, hn::Add(lower, upper));
#endif
}

HWY_INLINE Quad sums_of_partials(Vec (&x)[kPartial][kQuad]) {
  for (int half = kPartial / 2; half > 0; half /= 2) {
    for (int p = 0; p < half; ++p) {
      for (int r = 0; r < kQuad; ++r) x[p][r] = hn::Add(x[p][r], x[p + half][r]);
    }
  }
  return sums_of_lanes(x[0]);
}

// The dot products of kQuad rows with k and with q.
template <class From>
HWY_INLINE void dot_rows(const From* const (&rows)[kQuad], const Token& token, int64_t K,
                         Quad& dot_k, Quad& dot_q) {
  const F32 d;
  Vec with_k[kPartial][kQuad], with_q[kPartial][kQuad];
  for (int p = 0; p < kPartial; ++p) {
    for (int r = 0; r < kQuad; ++r) with_k[p][r] = with_q[p][r] = hn::Zero(d);
  }
  int64_t j = 0;
  for (; j + kPartial * kLanes <= K; j += kPartial * kLanes) {
    for (int p = 0; p < kPartial; ++p) {
      const Vec k = load(token.k + j + p * kLanes), q = load(token.q + j + p * kLanes);
      for (int r = 0; r < kQuad; ++r) {
        const Vec s = load(rows[r] + j + p * kLanes);
        with_k[p][r] = hn::MulAdd(s, k, with_k[p][r]);
        with_q[p][r] = hn::MulAdd(s, q, with_q[p][r]);
      }
    }
  }
  for (int p = 0; j < K; j += kLanes, ++p) {
    const Vec k = load(token.k + j), q = load(token.q + j);
    for (int r = 0; r < kQuad; ++r) {
      const Vec s = j + kLanes <= K ? load(rows[r] + j) : load_n(rows[r] + j, K - j);
      with_k[p][r] = hn::MulAdd(s, k, with_k[p][r]);
      with_q[p][r] = hn::MulAdd(s, q, with_q[p][r]);
    }
  }
  dot_k = sums_of_partials(with_k);
  dot_q = sums_of_partials(with_q);
}

// to <- decay from + v_new k^T, a row of it.
template <bool kAhead, class From, class To>
HWY_INLINE void update_row(const From* from, To* to, const float* k, float decay, float v_new,
                           int64_t K) {
  // Far enough ahead for memory to answer, near enough to stay in the first-level cache.
  constexpr int64_t kDistance = 8192 / static_cast<int64_t>(sizeof(From));
  const F32 d;
  const Vec e = hn::Set(d, decay), u = hn::Set(d, v_new);
  int64_t j = 0;
  for (; j + kLanes <= K; j += kLanes) {
    if constexpr (kAhead) prefetch_for_write(from + j + kDistance);
    store(hn::MulAdd(u, load(k + j), hn::Mul(e, load(from + j))), to + j);
  }
  if (j < K) {
    const Vec s = load_n(from + j, K - j);
    store_n(hn::MulAdd(u, load(k + j), hn::Mul(e, s)), to + j, K - j);
  }
}

template <bool kAhead, class From, class To>
HWY_NOINLINE void step_rows(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                            const Token& token, const TokenColumns& columns, int64_t K,
                            int64_t width) {
  const F32x4 d;
  const Quad decay = hn::Set(d, token.decay), beta = hn::Set(d, token.beta);
  const Quad kq = hn::Set(d, token.kq), scale = hn::Set(d, token.scale);
  for (int64_t block = 0; block < width; block += kRowBlock) {
    const int64_t end = std::min(width, block + kRowBlock);
    for (int64_t row = block; row < end; row += kQuad) {
      const From* rows[kQuad];  // past the end the last one again, for a result nobody reads
      for (int r = 0; r < kQuad; ++r) rows[r] = from + std::min(row + r, end - 1) * from_stride;
      Quad dot_k, dot_q;
      dot_rows(rows, token, K, dot_k, dot_q);
      const Quad v = hn::LoadU(d, columns.v + row);
      const Quad v_new = hn::Mul(beta, hn::NegMulAdd(decay, dot_k, v));
      const Quad out = hn::Mul(scale, hn::MulAdd(v_new, kq, hn::Mul(decay, dot_q)));
      hn::StoreU(v_new, d, columns.v_new + row);
      hn::StoreU(out, d, columns.out + row);
    }
    if (to == nullptr) continue;
    for (int64_t row = block; row < end; ++row) {
      update_row<kAhead>(from + row * from_stride, to + row * to_stride, token.k, token.decay,
                         columns.v_new[row], K);
    }
  }
}

template <bool kAhead, class From, class To>
HWY_NOINLINE void fold_rows(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                            const float* k, float decay, const float* v_new, int64_t K,
                            int64_t width) {
  for (int64_t row = 0; row < width; ++row) {
    update_row<kAhead>(from + row * from_stride, to + row * to_stride, k, decay, v_new[row], K);
  }
}

// ---- Layout KV
// ----------------------------------------------------------------------------------- Strips of
// columns, elements of k and q broadcast.

constexpr int kStrip = 4;  // vectors: eight accumulators, and four columns loaded, fit 16 registers

// Rows summed in registers before they join the strip's sums: partial sums, against rounding.
constexpr int64_t kSumRows = 16;

// A vector of the strip; the last of all may have n < kLanes columns, in a strip of one.
template <bool kWhole, class T>
HWY_INLINE Vec load_columns(const T* p, int64_t n) {
  if constexpr (kWhole) {
    return load(p);
  } else {
    return load_n(p, n);
  }
}
template <bool kWhole, class T>
HWY_INLINE void store_columns(Vec x, T* p, int64_t n) {
  if constexpr (kWhole) {
    store(x, p);
  } else {
    store_n(x, p, n);
  }
}

template <int kVectors, bool kWhole, class From, class To>
HWY_INLINE void update_strip(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                             const float* k, float decay, const float* v_new, int64_t K,
                             int64_t n) {
  const F32 d;
  const Vec e = hn::Set(d, decay);
  Vec u[kVectors];
  for (int c = 0; c < kVectors; ++c) u[c] = load(v_new + c * kLanes);
  for (int64_t i = 0; i < K; ++i) {
    const Vec ki = hn::Set(d, k[i]);
    for (int c = 0; c < kVectors; ++c) {
      const Vec s = load_columns<kWhole>(from + i * from_stride + c * kLanes, n);
      store_columns<kWhole>(hn::MulAdd(ki, u[c], hn::Mul(e, s)), to + i * to_stride + c * kLanes,
                            n);
    }
  }
}

template <int kVectors, bool kWhole, class From, class To>
HWY_INLINE void step_strip(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                           const Token& token, const TokenColumns& columns, int64_t K, int64_t n) {
  const F32 d;
  Vec dot_k[kVectors], dot_q[kVectors];
  for (int c = 0; c < kVectors; ++c) dot_k[c] = dot_q[c] = hn::Zero(d);
  for (int64_t begin = 0; begin < K; begin += kSumRows) {
    const int64_t end = std::min(K, begin + kSumRows);
    Vec with_k[kVectors], with_q[kVectors];
    for (int c = 0; c < kVectors; ++c) with_k[c] = with_q[c] = hn::Zero(d);
    for (int64_t i = begin; i < end; ++i) {
      const Vec k = hn::Set(d, token.k[i]), q = hn::Set(d, token.q[i]);
      for (int c = 0; c < kVectors; ++c) {
        const Vec s = load_columns<kWhole>(from + i * from_stride + c * kLanes, n);
        with_k[c] = hn::MulAdd(s, k, with_k[c]);
        with_q[c] = hn::MulAdd(s, q, with_q[c]);
      }
    }
    for (int c = 0; c < kVectors; ++c) {
      dot_k[c] = hn::Add(dot_k[c], with_k[c]);
      dot_q[c] = hn::Add(dot_q[c], with_q[c]);
    }
  }
  const Vec decay = hn::Set(d, token.decay), beta = hn::Set(d, token.beta);
  const Vec kq = hn::Set(d, token.kq), scale = hn::Set(d, token.scale);
  for (int c = 0; c < kVectors; ++c) {
    const Vec v = load(columns.v + c * kLanes);
    const Vec v_new = hn::Mul(beta, hn::NegMulAdd(decay, dot_k[c], v));
    const Vec out = hn::Mul(scale, hn::MulAdd(v_new, kq, hn::Mul(decay, dot_q[c])));
    store(v_new, columns.v_new + c * kLanes);
    store(out, columns.out + c * kLanes);
  }
  if (to == nullptr) return;
  update_strip<kVectors, kWhole>(from, from_stride, to, to_stride, token.k, token.decay,
                                 columns.v_new, K, n);
}

template <class From, class To>
HWY_NOINLINE void step_columns(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                               const Token& token, const TokenColumns& columns, int64_t K,
                               int64_t width) {
  int64_t c = 0;
  const auto rest = [&] { return TokenColumns{columns.v + c, columns.v_new + c, columns.out + c}; };
  const auto target = [&] { return to == nullptr ? nullptr : to + c; };
  for (; c + kStrip * kLanes <= width; c += kStrip * kLanes) {
    step_strip<kStrip, true>(from + c, from_stride, target(), to_stride, token, rest(), K, kLanes);
  }
  for (; c + kLanes <= width; c += kLanes) {
    step_strip<1, true>(from + c, from_stride, target(), to_stride, token, rest(), K, kLanes);
  }
  if (c < width) {
    step_strip<1, false>(from + c, from_stride, target(), to_stride, token, rest(), K, width - c);
  }
}

template <class From, class To>
HWY_NOINLINE void fold_columns(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                               const float* k, float decay, const float* v_new, int64_t K,
                               int64_t width) {
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) {
    update_strip<1, true>(from + c, from_stride, to + c, to_stride, k, decay, v_new + c, K, kLanes);
  }
  if (c < width) {
    update_strip<1, false>(from + c, from_stride, to + c, to_stride, k, decay, v_new + c, K,
                           width - c);
  }
}

// ---- Both
// ----------------------------------------------------------------------------------------

// Where the columns of a head's state lie, in a slot and in scratch.
struct StateShape {
  StateLayout layout;
  int64_t K, V;

  bool rows() const { return layout == StateLayout::kVK; }
  // Columns that are worth a visit of their own when the running state is kept in scratch.
  int64_t block() const { return rows() ? kRowBlock : kStrip * kLanes; }

  StateBlock in_slot(std::byte* slot, DType dtype, int64_t head, int64_t column) const {
    const int64_t offset = rows() ? (head * V + column) * K : head * K * V + column;
    return {slot + offset * size_of(dtype), dtype, rows() ? K : V, true};
  }
  // Column `column` of `width` in scratch.
  StateBlock in_scratch(float* scratch, int64_t width, int64_t column) const {
    return {reinterpret_cast<std::byte*>(scratch + (rows() ? column * padded(K) : column)),
            DType::kF32, rows() ? padded(K) : padded(width), false};
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

// One token: v_new and out of the columns, and to <- decay from + v_new k^T. `to` may be `from`, or
// nowhere.
inline void step(const StateShape& shape, const StateBlock& from, const StateBlock& to,
                 const Token& token, const TokenColumns& columns, int64_t width) {
  with_elements(from, to, [&](const auto* p, auto* q) {
    if (!shape.rows()) {
      step_columns(p, from.stride, q, to.stride, token, columns, shape.K, width);
    } else if (from.in_pool) {
      step_rows<true>(p, from.stride, q, to.stride, token, columns, shape.K, width);
    } else {
      step_rows<false>(p, from.stride, q, to.stride, token, columns, shape.K, width);
    }
  });
}

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
  for (; i + kLanes <= n; i += kLanes) store(load(from + i), to + i);
  if (i < n) store_n(load_n(from + i, n - i), to + i, n - i);
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
