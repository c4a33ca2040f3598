// Dot products of rows, the norm of q and k for every kernel that needs one, and the l2norm
// operator.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// In float32, four vectors of partial sums: their order depends on n alone.
template <class T>
HWY_INLINE float dot(const T* x, const T* y, int64_t n) {
  const F32 d;
  Vec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int part = 0; part < 4; ++part) {
      const int64_t j = i + part * kLanes;
      sums[part] = hn::MulAdd(load(x + j), load(y + j), sums[part]);
    }
  }
  for (int part = 0; i < n; i += kLanes, ++part) {
    const auto some = [&](const T* p) {
      return i + kLanes <= n ? load(p + i) : load_n(p + i, n - i);
    };
    sums[part] = hn::MulAdd(some(x), some(y), sums[part]);
  }
  const Vec sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

template <class T>
HWY_INLINE float sum_of_squares(const T* x, int64_t n) {
  return dot(x, x, n);
}

// 1 / sqrt(sum x^2 + eps).
template <class T>
HWY_INLINE float inverse_norm(const T* x, int64_t n, float eps) {
  return 1.0f / std::sqrt(sum_of_squares(x, n) + eps);
}

// The same from sums of squares, in place: for several rows at once, whose square roots would
// otherwise wait for one another. count is a multiple of kLanes.
HWY_INLINE void to_inverse_norms(float* sums, int count, float eps) {
  const F32 d;
  for (int i = 0; i < count; i += kLanes) {
    const Vec norm = hn::Sqrt(hn::Add(load(sums + i), hn::Set(d, eps)));
    store(hn::Div(hn::Set(d, 1.0f), norm), sums + i);
  }
}

template <class From, class To>
HWY_INLINE void scale_row(const From* x, int64_t n, float factor, To* y) {
  const Vec f = hn::Set(F32(), factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(hn::Mul(load(x + i), f), y + i);
  if (i < n) store_n(hn::Mul(load_n(x + i, n - i), f), y + i, n - i);
}

inline void l2norm(const L2normProblem& problem, int64_t begin, int64_t end) {
  with_element(problem.x_dtype, [&](auto from) {
    with_element(problem.y_dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      for (int64_t i = begin; i < end; ++i) {
        const From* x = reinterpret_cast<const From*>(problem.x) +
                        row_offset(problem.extents, problem.x_strides, i);
        To* y =
            reinterpret_cast<To*>(problem.y) + row_offset(problem.extents, problem.y_strides, i);
        const int64_t n = problem.shape.K;
        scale_row(x, n, inverse_norm(x, n, problem.eps), y);
      }
    });
  });
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
