// A tile of consecutive tokens of a sequence as the token-by-token kernels take them: floats in
// scratch.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Tokens of a tile: enough to pay for a state block's way between scratch and the first-level
// cache.
constexpr int64_t kTile = 16;

// A vector for each token, `stride` apart.
struct Rows {
  float* data;
  int64_t stride;

  float* at(int64_t i) const { return data + i * stride; }
};

// Hands out scratch in whole cache lines.
class Carver {
 public:
  explicit Carver(std::byte* scratch) : next_(reinterpret_cast<float*>(scratch)) {}
  float* take(int64_t floats) {
    float* p = next_;
    next_ += padded(floats);
    return p;
  }

 private:
  float* next_;
};

// What q and k of a token and head are made of: rows as they are in memory, and factors.
struct GivenHead {
  const std::byte* q = nullptr;
  const std::byte* k = nullptr;
  float q_norm = 1, k_norm = 1;
};

// 1 / the l2 norm of a row, or 1 where it is not asked for.
template <class Problem>
HWY_INLINE float norm_of_head(const Problem& problem, const TokenTensor& from,
                              const std::byte* row) {
  float norm = 1;
  if (!problem.use_qk_l2norm) return norm;
  with_element(from.dtype, [&](auto element) {
    norm = inverse_norm(reinterpret_cast<const decltype(element)*>(row), problem.shape.K,
                        problem.l2norm_eps);
  });
  return norm;
}

template <class Problem>
HWY_INLINE GivenHead given_head(const Problem& problem, const Sequence& sequence, int64_t t,
                                int64_t head) {
  const std::byte* const q = problem.q.at(sequence, t, head);
  const std::byte* const k = problem.k.at(sequence, t, head);
  return {q, k, norm_of_head(problem, problem.q, q), norm_of_head(problem, problem.k, k)};
}

// K elements times the row's norm as floats, zeros up to padded(K). NaNs go through
// with_plain_nan(): which of two an update takes is the compiler's choice, another in every loop.
HWY_INLINE void load_head(DType dtype, const std::byte* row, float norm, int64_t K, float* to) {
  with_element(dtype, [&](auto element) {
    scale_row(reinterpret_cast<const decltype(element)*>(row), K, norm, to);
  });
  if constexpr (kStateTiesAway) {
    for (int64_t i = 0; i < K; i += kLanes) store(with_plain_nan(F32(), load(to + i)), to + i);
  }
  std::fill(to + K, to + padded(K), 0.0f);
}

// q and k of a token and head. Returns their dot product.
template <class Problem>
HWY_INLINE float load_heads(const Problem& problem, const GivenHead& given, float* q, float* k) {
  const int64_t K = problem.shape.K;
  load_head(problem.q.dtype, given.q, given.q_norm, K, q);
  load_head(problem.k.dtype, given.k, given.k_norm, K, k);
  return dot(k, q, padded(K));
}

// Columns [begin, end) of a value head.
struct HeadColumns {
  int64_t head, begin, end;
};

// Some columns of a token's v to the front of a row of floats, zeros up to a whole row.
HWY_INLINE void load_value_row(const TokenTensor& v, const Sequence& sequence, int64_t t,
                               const HeadColumns& columns, float* to) {
  const int64_t width = columns.end - columns.begin;
  with_element(v.dtype, [&](auto element) {
    const auto* row = reinterpret_cast<const decltype(element)*>(v.at(sequence, t, columns.head));
    load_row(row + columns.begin, width, to);
  });
  std::fill(to + width, to + padded(width), 0.0f);
}
// Those of its out from there.
HWY_INLINE void store_out_row(const float* from, const TokenTensor& out, const Sequence& sequence,
                              int64_t t, const HeadColumns& columns) {
  with_element(out.dtype, [&](auto element) {
    auto* row = reinterpret_cast<decltype(element)*>(out.at(sequence, t, columns.head));
    store_row(from, columns.end - columns.begin, row + columns.begin);
  });
}

class TokenTile {
 public:
  static int64_t floats(int64_t tokens, int64_t K, int64_t V) {
    return tokens * (2 * padded(K) + 3 * padded(V));
  }
  TokenTile(Carver& carver, int64_t tokens, int64_t K, int64_t V)
      : q{carver.take(tokens * padded(K)), padded(K)},
        k{carver.take(tokens * padded(K)), padded(K)},
        v{carver.take(tokens * padded(V)), padded(V)},
        v_new{carver.take(tokens * padded(V)), padded(V)},
        out{carver.take(tokens * padded(V)), padded(V)} {}

  // q and k of tokens t0 .. t0 + count - 1; false, and nothing to do, where they are there already.
  template <class Problem>
  bool load_qk(const Problem& problem, const Sequence& sequence, int64_t head, int64_t t0,
               int64_t count) {
    if (loaded_ == t0) return false;
    loaded_ = t0;
    for (int64_t i = 0; i < count; ++i) {
      const GivenHead given = given_head(problem, sequence, t0 + i, head);
      if (i == 0) first = given;
      kq[i] = load_heads(problem, given, q.at(i), k.at(i));
    }
    return true;
  }

  // Gates, and columns [begin, end) of v to the front of its rows, of a value head.
  template <class Problem>
  void load_values(const Problem& problem, const Sequence& sequence, int64_t head, int64_t t0,
                   int64_t count, int64_t begin, int64_t end) {
    load_gates(problem.gates, sequence, t0, count, head, g, beta);
    for (int64_t i = 0; i < kTile; i += kLanes) store(exp(load(g + i)), decay + i);
    for (int64_t i = 0; i < count; ++i) {
      load_value_row(problem.v, sequence, t0 + i, {head, begin, end}, v.at(i));
    }
  }

  template <class Problem>
  void store_out(const Problem& problem, const Sequence& sequence, int64_t head, int64_t t0,
                 int64_t count, int64_t begin, int64_t end) const {
    for (int64_t i = 0; i < count; ++i) {
      store_out_row(out.at(i), problem.out, sequence, t0 + i, {head, begin, end});
    }
  }

  Token token(int64_t i, float scale) const {
    return {q.at(i), k.at(i), kq[i], decay[i], beta[i], scale};
  }
  TokenColumns columns(int64_t i, int64_t column) const {
    return {v.at(i) + column, v_new.at(i) + column, out.at(i) + column};
  }

  Rows q, k, v, v_new, out;
  GivenHead first;  // of the tile's first token
  alignas(64) float kq[kTile] = {};
  alignas(64) float g[kTile] = {};
  alignas(64) float decay[kTile] = {};
  alignas(64) float beta[kTile] = {};

 private:
  int64_t loaded_ = -1;
};

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
