GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {
inline float inverse_norm(const float* x, int64_t n, float eps) {
  float s = 0;
  for (int64_t i = 0; i < n; ++i) s += x[i] * x[i];
  return 1.0f / std::sqrt(s + eps);
}
inline void l2norm(const L2normProblem&, int64_t, int64_t) {}
}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
