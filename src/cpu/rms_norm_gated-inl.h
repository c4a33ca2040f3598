// The gated norm: one pass over a row for the sum, one for the output.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

template <class From, class To>
HWY_INLINE void rms_norm_gated_row(const From* x, const From* z, const float* weight, int64_t n,
                                   float eps, bool past_caches, To* y) {
  const float mean = sum_of_squares(x, n) / static_cast<float>(n);
  const Vec factor = hn::Set(F32(), 1.0f / std::sqrt(mean + eps));
  const auto gated = [&](Vec x_i, Vec z_i, Vec w_i) {
    return hn::Mul(hn::Mul(hn::Mul(x_i, factor), w_i), silu(z_i));
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec out = gated(load(x + i), load(z + i), load(weight + i));
    if (past_caches) {
      stream(out, y + i);
    } else {
      store(out, y + i);
    }
  }
  if (i < n) {
    store_n(gated(load_n(x + i, n - i), load_n(z + i, n - i), load_n(weight + i, n - i)), y + i,
            n - i);
  }
}

// The weight, in float32.
inline size_t rms_norm_gated_scratch(const Shape& shape) {
  return static_cast<size_t>((shape.K + kLanes - 1) / kLanes * kLanes) * sizeof(float);
}

inline void rms_norm_gated(const RmsNormGatedProblem& problem, int64_t begin, int64_t end,
                           std::byte* scratch) {
  const int64_t D = problem.shape.K;
  float* weight = reinterpret_cast<float*>(scratch);
  gather(problem.weight.data, problem.weight.dtype, problem.weight.stride, D, weight);
  const TokenTensor out = {problem.y, problem.y_dtype, problem.y_strides[0], problem.y_strides[1],
                           problem.y_strides[2]};
  const bool past_caches = stores_past_caches(out, problem.shape.sequences * D);
  with_element(problem.dtype, [&](auto from) {
    with_element(problem.y_dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      // Rows along the last of the leading axes are one stride apart.
      for (int64_t row = begin; row < end;) {
        const From* x = reinterpret_cast<const From*>(problem.x) +
                        row_offset(problem.extents, problem.x_strides, row);
        const From* z = reinterpret_cast<const From*>(problem.z) +
                        row_offset(problem.extents, problem.z_strides, row);
        To* y =
            reinterpret_cast<To*>(problem.y) + row_offset(problem.extents, problem.y_strides, row);
        const int64_t run = std::min(end - row, problem.extents[2] - row % problem.extents[2]);
        for (int64_t i = 0; i < run; ++i) {
          rms_norm_gated_row(x + i * problem.x_strides[2], z + i * problem.z_strides[2], weight, D,
                             problem.eps, past_caches, y + i * problem.y_strides[2]);
        }
        row += run;
      }
    });
  });
  if (past_caches) hwy::FlushStream();
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
