// The state in layout KV, K rows: strips of columns of V, elements of k and q broadcast.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Vectors of a strip: sixteen accumulators on AVX-512, where a row of 128 columns is then read as a
// whole, in memory order; else eight, which fit 16 registers.
constexpr int kStrip = kLanes == 16 ? 8 : 4;

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
    store_state(x, p);
  } else {
    store_state_n(x, p, n);
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
  for (int c = 0; c < kVectors; ++c) {
    finish_columns(d, token, dot_k[c], dot_q[c], columns.after(c * kLanes));
  }
  if (to == nullptr) return;
  update_strip<kVectors, kWhole>(from, from_stride, to, to_stride, token.k, token.decay,
                                 columns.v_new, K, n);
}

// Calls strip(vectors, whole, first column, columns of a cut vector) for the strips of a range.
template <class Strip>
HWY_INLINE void for_each_strip(int64_t width, const Strip& strip) {
  int64_t c = 0;
  for (; c + kStrip * kLanes <= width; c += kStrip * kLanes) {
    strip(std::integral_constant<int, kStrip>(), std::true_type(), c, kLanes);
  }
  if (c + 4 * kLanes <= width) {
    strip(std::integral_constant<int, 4>(), std::true_type(), c, kLanes);
    c += 4 * kLanes;
  }
  for (; c + kLanes <= width; c += kLanes) {
    strip(std::integral_constant<int, 1>(), std::true_type(), c, kLanes);
  }
  if (c < width) strip(std::integral_constant<int, 1>(), std::false_type(), c, width - c);
}

template <class From, class To>
HWY_NOINLINE void step_columns(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                               const Token& token, const TokenColumns& columns, int64_t K,
                               int64_t width) {
  for_each_strip(width, [&](auto vectors, auto whole, int64_t c, int64_t n) {
    step_strip<vectors(), whole()>(from + c, from_stride, to == nullptr ? to : to + c, to_stride,
                                   token, {columns.v + c, columns.v_new + c, columns.out + c}, K,
                                   n);
  });
}

template <class From, class To>
HWY_NOINLINE void fold_columns(const From* from, int64_t from_stride, To* to, int64_t to_stride,
                               const float* k, float decay, const float* v_new, int64_t K,
                               int64_t width) {
  for_each_strip(width, [&](auto vectors, auto whole, int64_t c, int64_t n) {
    update_strip<vectors(), whole()>(from + c, from_stride, to + c, to_stride, k, decay, v_new + c,
                                     K, n);
  });
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
