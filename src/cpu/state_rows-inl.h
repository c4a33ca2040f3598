// The state in layout VK, rows of K elements: some rows at a time, first their dot products with k
// and q together, then their update while they are in the first-level cache.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Scratch rows are padded to whole vectors; 16 floats suit every instruction set and a cache line.
constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

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

  TokenColumns after(int64_t n) const { return {v + n, v_new + n, out + n}; }
};

// v_new and out of the first columns, as many as D has lanes, from their dot products.
template <class D, class V>
HWY_INLINE void finish_columns(D d, const Token& token, V dot_k, V dot_q,
                               const TokenColumns& columns) {
  const V decay = hn::Set(d, token.decay), beta = hn::Set(d, token.beta);
  const V kq = hn::Set(d, token.kq), scale = hn::Set(d, token.scale);
  const V v_new =
      with_plain_nan(d, hn::Mul(beta, hn::NegMulAdd(decay, dot_k, hn::LoadU(d, columns.v))));
  const V out = hn::Mul(scale, hn::MulAdd(v_new, kq, hn::Mul(decay, dot_q)));
  hn::StoreU(v_new, d, columns.v_new);
  hn::StoreU(out, d, columns.out);
}

constexpr int kQuad = kLanes < 4 ? 1 : 4;  // rows whose lanes are summed by one transposition
using F32x4 = hn::CappedTag<float, kQuad>;
using Quad = hn::Vec<F32x4>;

// At least eight partial sums to a dot product, which keeps its error well below 1e-6.
constexpr int kPartial = kLanes < 8 ? 8 / kLanes : 1;

// Rows whose dot products run together: sixteen accumulators on 32 registers, eight on 16.
constexpr int kDotRows = kLanes == 16 ? 8 : kQuad;

constexpr int64_t kRowBlock = 8;

// Rows that a block of the running state has: where tiles take the first step (state_tiles-inl.h),
// those of a tile.
#if defined(GDN_ISA_HAS_STATE_TILES)
constexpr int64_t kVisitedRows = 16;
#else
constexpr int64_t kVisitedRows = kRowBlock;
#endif

// While the dot products run, update_part's prefetches to the first level do not. Where that leaves
// memory idle (Xeons, whose first level waits for sixteen lines at most, and whose memory answers
// late), the dot products ask the second level for what those will want. Not elsewhere: on Zen 5
// the prototypes lost a fifth of their speed by prefetches (to the first level) there.
#if defined(GDN_ISA_STATE_TO_L2)
constexpr int64_t kStateToL2 = GDN_ISA_STATE_TO_L2;
#else
constexpr int64_t kStateToL2 = 0;
#endif

// How far ahead update_part prefetches to the first level: far enough for memory to answer, near
// enough to stay there.
constexpr int64_t kStateToL1 = 8192;

// The way of a walk through states that prefetches follow: up to `end`, then from `next` on, which
// is nullptr where that is the same.
struct Way {
  const std::byte* end;
  const std::byte* next;

  // Bytes from `at` to what comes `distance` later.
  int64_t ahead(const void* at, int64_t distance) const {
    const auto* p = static_cast<const std::byte*>(at);
    return next == nullptr || end - p > distance ? distance : distance + (next - end);
  }
};

template <class T>
HWY_INLINE const std::byte* bytes_after(const T* p, int64_t distance) {
  return reinterpret_cast<const std::byte*>(p) + distance;
}

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

// Lane i of every block of four lanes is the sum of that block of x[i].
HWY_INLINE Vec sums_in_blocks(const Vec (&x)[kQuad]) {
  const F32 d;
  const hn::Repartition<double, F32> pairs;
  const Vec x01 = hn::Add(hn::InterleaveLower(d, x[0], x[1]), hn::InterleaveUpper(d, x[0], x[1]));
  const Vec x23 = hn::Add(hn::InterleaveLower(d, x[2], x[3]), hn::InterleaveUpper(d, x[2], x[3]));
  const auto p01 = hn::BitCast(pairs, x01), p23 = hn::BitCast(pairs, x23);
  const Vec lower = hn::BitCast(d, hn::InterleaveLower(pairs, p01, p23));
  const Vec upper = hn::BitCast(d, hn::InterleaveUpper(pairs, p01, p23));
  return hn::Add(lower, upper);
}
#endif

// Lane i of the result is the sum of the lanes of x[i].
HWY_INLINE Quad sums_of_lanes(const Vec (&x)[kQuad]) {
#if HWY_TARGET == HWY_SCALAR
  return x[0];
#else
  return fold_halves(F32(), sums_in_blocks(x));
#endif
}

// The same of rows r .. r + kQuad - 1, whose partial sums are x[0], x[1], ...
HWY_INLINE Quad sums_of_partials(const Vec (&x)[kPartial][kDotRows], int r) {
  Vec sums[kPartial][kQuad];
  for (int p = 0; p < kPartial; ++p) {
    for (int i = 0; i < kQuad; ++i) sums[p][i] = x[p][r + i];
  }
  for (int half = kPartial / 2; half > 0; half /= 2) {
    for (int p = 0; p < half; ++p) {
      for (int i = 0; i < kQuad; ++i) sums[p][i] = hn::Add(sums[p][i], sums[p + half][i]);
    }
  }
  return sums_of_lanes(sums[0]);
}

// Of all rows, with k and with q.
HWY_INLINE void sum_up_dots(const Vec (&with_k)[kPartial][kDotRows],
                            const Vec (&with_q)[kPartial][kDotRows],
                            Quad (&dot_k)[kDotRows / kQuad], Quad (&dot_q)[kDotRows / kQuad]) {
  for (int r = 0; r < kDotRows; r += kQuad) {
    dot_k[r / kQuad] = sums_of_partials(with_k, r);
    dot_q[r / kQuad] = sums_of_partials(with_q, r);
  }
}

// v_new and out of kDotRows rows.
HWY_INLINE void finish_rows(const Token& token, const Quad (&dot_k)[kDotRows / kQuad],
                            const Quad (&dot_q)[kDotRows / kQuad], const TokenColumns& columns) {
  for (int i = 0; i < kDotRows / kQuad; ++i) {
    finish_columns(F32x4(), token, dot_k[i], dot_q[i], columns.after(i * kQuad));
  }
}

// Two products take the row: without this gcc loads it for each, which costs a tenth of the speed.
HWY_INLINE void keep_in_register([[maybe_unused]] Vec& x) {
#if HWY_TARGET == HWY_AVX3
  asm("" : "+v"(x.raw));
#elif HWY_TARGET == HWY_AVX2
  asm("" : "+x"(x.raw));
#endif
}

// Adds the products of elements j .. j + n - 1 of kDotRows rows with those of k and q. kAhead: and
// asks for what is `to_l2` bytes ahead.
template <bool kAhead, bool kWhole, class From>
HWY_INLINE void add_dots(const From* const (&rows)[kDotRows], const Token& token, int64_t j,
                         int64_t n, int64_t to_l2, Vec (&with_k)[kDotRows],
                         Vec (&with_q)[kDotRows]) {
  const Vec k = load(token.k + j), q = load(token.q + j);
#pragma GCC unroll 8
  for (int r = 0; r < kDotRows; ++r) {
    if constexpr (kAhead && kStateToL2 > 0 && std::is_same_v<From, float>) {
      __builtin_prefetch(bytes_after(rows[r] + j, to_l2), 0, 2);
    }
    Vec s = kWhole ? load(rows[r] + j) : load_n(rows[r] + j, n);
    keep_in_register(s);
    with_k[r] = hn::MulAdd(s, k, with_k[r]);
    with_q[r] = hn::MulAdd(s, q, with_q[r]);
  }
}

// Whether a state's rows are read in pairs. One partial sum a dot product then suffices, as above.
template <class From>
constexpr bool kInPairs = std::is_same_v<From, bf16>&& kPartial == 1 && kLanes > 1;

// As add_dots, of kPairLanes elements, with k and q in pair order.
HWY_INLINE void add_pair_dots(const bf16* const (&rows)[kDotRows], const Token& token, int64_t j,
                              Vec (&with_k)[kDotRows], Vec (&with_q)[kDotRows]) {
  const Vec k_even = load(token.k + j), k_odd = load(token.k + j + kLanes);
  const Vec q_even = load(token.q + j), q_odd = load(token.q + j + kLanes);
#pragma GCC unroll 8
  for (int r = 0; r < kDotRows; ++r) {
    Vec even, odd;
    load_pairs(rows[r] + j, even, odd);
    with_k[r] = hn::MulAdd(odd, k_odd, hn::MulAdd(even, k_even, with_k[r]));
    with_q[r] = hn::MulAdd(odd, q_odd, hn::MulAdd(even, q_even, with_q[r]));
  }
}

// The dot products of kDotRows rows with k and with q, which are in pair order where the rows are
// read so.
template <bool kAhead, class From>
HWY_INLINE void dot_rows(const From* const (&rows)[kDotRows], const Token& token, int64_t K,
                         int64_t to_l2, Quad (&dot_k)[kDotRows / kQuad],
                         Quad (&dot_q)[kDotRows / kQuad]) {
  const F32 d;
  Vec with_k[kPartial][kDotRows], with_q[kPartial][kDotRows];
  for (int p = 0; p < kPartial; ++p) {
    for (int r = 0; r < kDotRows; ++r) with_k[p][r] = with_q[p][r] = hn::Zero(d);
  }
  int64_t j = 0;
  if constexpr (kInPairs<From>) {
    for (; j < paired(K); j += kPairLanes) add_pair_dots(rows, token, j, with_k[0], with_q[0]);
  }
  for (; j + kPartial * kLanes <= K; j += kPartial * kLanes) {
#pragma GCC unroll 8
    for (int p = 0; p < kPartial; ++p) {
      add_dots<kAhead, true>(rows, token, j + p * kLanes, kLanes, to_l2, with_k[p], with_q[p]);
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPartial; ++p, j += kLanes) {
    if (j + kLanes <= K) {
      add_dots<kAhead, true>(rows, token, j, kLanes, to_l2, with_k[p], with_q[p]);
    } else if (j < K) {
      add_dots<kAhead, false>(rows, token, j, K - j, to_l2, with_k[p], with_q[p]);
    }
  }
  sum_up_dots(with_k, with_q, dot_k, dot_q);
}

// to <- decay from + v_new k^T, kVectors vectors of some rows, whose part of k stays in registers:
// memory is walked row by row, as it likes best. kAhead: and what is `to_l1` bytes ahead is
// fetched.
template <bool kAhead, int kVectors, class From, class To>
HWY_INLINE void update_part(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                            const float* k, float decay, const float* v_new, int64_t rows,
                            int64_t to_l1) {
  const F32 d;
  const Vec e = hn::Set(d, decay);
  Vec part[kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) part[i] = load(k + i * kLanes);
  const bool apart = static_cast<const void*>(from) != static_cast<const void*>(to);
  for (int64_t row = 0; row < rows; ++row) {
    const From* p = from + row * from_stride;
    To* q = to + row * to_stride;
    const Vec u = hn::Set(d, v_new[row]);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      if constexpr (kAhead) {  // lines that are only read stay everyone's
        prefetch_for_write(bytes_after(q + i * kLanes, to_l1));
        if (apart) __builtin_prefetch(bytes_after(p + i * kLanes, to_l1));
      }
      store_state(hn::MulAdd(u, part[i], hn::Mul(e, load(p + i * kLanes))), q + i * kLanes);
    }
  }
}

// to <- decay from + u k^T, kPairLanes bfloat16 elements of a row, whose part of k is in pair
// order.
struct PairUpdate {
  Vec decay, k_even, k_odd;

  HWY_INLINE void line(const bf16* from, bf16* to, Vec u) const {
    Vec even, odd;
    load_pairs(from, even, odd);
    store_pairs(hn::MulAdd(u, k_even, hn::Mul(decay, even)),
                hn::MulAdd(u, k_odd, hn::Mul(decay, odd)), to);
  }
};

// The same of rows of kPairs times kPairLanes bfloat16 elements, with k in pair order. (By template
// and not by loop: where asm touches memory, gcc leaves an array with variable indices there.)
template <int kPairs>
struct PairRows {
  Vec decay, part[2 * kPairs];

  HWY_INLINE PairRows(const float* k, float factor)
      : decay(with_plain_nan(F32(), hn::Set(F32(), factor))) {
    load_part<0>(k);
  }
  // fetch.line(first element) is called for every line.
  template <class Fetch>
  HWY_INLINE void row(const bf16* from, bf16* to, float v_new, const Fetch& fetch) const {
    update_line<0>(from, to, hn::Set(F32(), v_new), fetch);
  }

 private:
  template <int kI>
  HWY_INLINE void load_part(const float* k) {
    part[kI] = with_plain_nan(F32(), load(k + kI * kLanes));
    if constexpr (kI + 1 < 2 * kPairs) load_part<kI + 1>(k);
  }
  template <int kI, class Fetch>
  HWY_INLINE void update_line(const bf16* from, bf16* to, Vec u, const Fetch& fetch) const {
    fetch.line(kI * kPairLanes);
    PairUpdate{decay, part[2 * kI], part[2 * kI + 1]}.line(from + kI * kPairLanes,
                                                           to + kI * kPairLanes, u);
    if constexpr (kI + 1 < kPairs) update_line<kI + 1>(from, to, u, fetch);
  }
};

// Prefetches of a row to the first-level cache, or none. kApart: `to` is not `from`.
template <bool kAhead, bool kApart>
struct FetchToL1 {
  const bf16* from;
  bf16* to;
  int64_t distance;

  HWY_INLINE void line(int64_t element) const {
    if constexpr (!kAhead) return;
    prefetch_for_write(bytes_after(to + element, distance));
    if constexpr (kApart) __builtin_prefetch(bytes_after(from + element, distance));
  }
};
template <bool kAhead, int kPairs>
HWY_INLINE void update_pairs(const bf16* from, int64_t from_stride, bf16* to, int64_t to_stride,
                             const float* k, float decay, const float* v_new, int64_t rows,
                             int64_t to_l1) {
  const PairRows<kPairs> pairs(k, decay);
  const auto update = [&](auto apart) {
    for (int64_t row = 0; row < rows; ++row) {
      const bf16* const p = from + row * from_stride;
      bf16* const q = to + row * to_stride;
      pairs.row(p, q, v_new[row], FetchToL1<kAhead, apart()>{p, q, to_l1});
    }
  };
  // Two loops: arithmetic is what bounds bfloat16 states, and a test at every line costs 2 %.
  if (from == to) {
    update(std::false_type());
  } else {
    update(std::true_type());
  }
}

// The same of whole rows; k is in pair order where both states are bfloat16 and are taken so.
template <bool kAhead, class From, class To>
HWY_INLINE void update_rows(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                            const float* k, float decay, const float* v_new, int64_t K,
                            int64_t rows, int64_t to_l1) {
  int64_t j = 0;
  if constexpr (kInPairs<From> && kInPairs<To>) {
    for (; j + 4 * kPairLanes <= K; j += 4 * kPairLanes) {
      update_pairs<kAhead, 4>(from + j, from_stride, to + j, to_stride, k + j, decay, v_new, rows,
                              to_l1);
    }
    for (; j < paired(K); j += kPairLanes) {
      update_pairs<kAhead, 1>(from + j, from_stride, to + j, to_stride, k + j, decay, v_new, rows,
                              to_l1);
    }
  }
  for (; j + 8 * kLanes <= K; j += 8 * kLanes) {
    update_part<kAhead, 8>(from + j, from_stride, to + j, to_stride, k + j, decay, v_new, rows,
                           to_l1);
  }
  if (j + 4 * kLanes <= K) {
    update_part<kAhead, 4>(from + j, from_stride, to + j, to_stride, k + j, decay, v_new, rows,
                           to_l1);
    j += 4 * kLanes;
  }
  for (; j + kLanes <= K; j += kLanes) {
    update_part<kAhead, 1>(from + j, from_stride, to + j, to_stride, k + j, decay, v_new, rows,
                           to_l1);
  }
  if (j < K) {
    const F32 d;
    const Vec e = hn::Set(d, decay), part = load(k + j);
    for (int64_t row = 0; row < rows; ++row) {
      const Vec s = hn::Mul(e, load_n(from + row * from_stride + j, K - j));
      store_state_n(hn::MulAdd(hn::Set(d, v_new[row]), part, s), to + row * to_stride + j, K - j);
    }
  }
}

template <bool kAhead, class From, class To>
HWY_NOINLINE void step_rows(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                            const Token& token, const TokenColumns& columns, int64_t K,
                            int64_t width, const Way& way) {
  alignas(64) float q_pairs[kInPairs<From> ? 256 : 1], k_pairs[kInPairs<From> ? 256 : 1];
  Token dots = token;
  if constexpr (kInPairs<From>) {
    to_pair_order(token.q, K, padded(K), q_pairs);
    to_pair_order(token.k, K, padded(K), k_pairs);
    dots.q = q_pairs;
    dots.k = k_pairs;
  }
  const float* const update_k = kInPairs<From> && kInPairs<To> ? k_pairs : token.k;
  for (int64_t block = 0; block < width; block += kRowBlock) {
    const int64_t end = std::min(width, block + kRowBlock);
    const int64_t to_l1 = way.ahead(from + block * from_stride, kStateToL1);
    const int64_t to_l2 = way.ahead(from + block * from_stride, kStateToL2);
    for (int64_t first = block; first < end; first += kDotRows) {
      const From* rows[kDotRows];  // past the end the last one again, for a result nobody reads
      for (int r = 0; r < kDotRows; ++r) {
        rows[r] = from + std::min(first + r, end - 1) * from_stride;
      }
      Quad dot_k[kDotRows / kQuad], dot_q[kDotRows / kQuad];
      dot_rows<kAhead>(rows, dots, K, to_l2, dot_k, dot_q);
      finish_rows(token, dot_k, dot_q, columns.after(first));
    }
    if (to != nullptr) {
      update_rows<kAhead>(from + block * from_stride, from_stride, to + block * to_stride,
                          to_stride, update_k, token.decay, columns.v_new + block, K, end - block,
                          to_l1);
    }
  }
}

template <bool kAhead, class From, class To>
HWY_NOINLINE void fold_rows(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                            const float* k, float decay, const float* v_new, int64_t K,
                            int64_t width) {
  alignas(64) float k_pairs[kInPairs<From> && kInPairs<To> ? 256 : 1];
  if constexpr (kInPairs<From> && kInPairs<To>) {
    to_pair_order(k, K, padded(K), k_pairs);
    k = k_pairs;
  }
  for (int64_t row = 0; row < width; row += kRowBlock) {
    update_rows<kAhead>(from + row * from_stride, from_stride, to + row * to_stride, to_stride, k,
                        decay, v_new + row, K, std::min(kRowBlock, width - row), kStateToL1);
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
