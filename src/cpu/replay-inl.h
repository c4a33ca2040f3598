GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {
inline size_t replay_scratch(const Shape&, const Split&) { return 0; }
inline void replay(const ReplayProblem&, const Split&, int64_t, std::byte*) {}
}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
