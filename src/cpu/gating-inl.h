GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {
inline void gating(const GatingProblem&, int64_t, int64_t) {}
}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
