GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {
inline void compute_gates(const GateInputs& in, const Sequence& s, int64_t t0, int64_t count,
                          int64_t head, float* g, float* beta) {
  for (int64_t i = 0; i < count; ++i) {
    float x;
    std::memcpy(&x, in.g.at(s, t0 + i, head), 4);
    g[i] = x < -150 ? -150 : x;
    beta[i] = in.beta.given() ? load_float(in.beta.at(s, t0 + i, head), in.beta.dtype) : 1;
  }
}
inline void gating(const GatingProblem&, int64_t, int64_t) {}
}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
