GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {
inline size_t solve_tril_scratch(const Shape&) { return 0; }
inline void solve_tril(const SolveTrilProblem&, int64_t, std::byte*) {}
}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
