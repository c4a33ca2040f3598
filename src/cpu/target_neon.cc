// NEON: every AArch64.
#if defined(__aarch64__)
#define GDN_ISA neon
#define GDN_HWY_TARGET HWY_NEON
#define GDN_ISA_FEATURES ""
#include "cpu/isa.h"
// After isa.h.
#include "cpu/all_kernels-inl.h"
#include "cpu/targets.h"

namespace gdn::cpu {

const Kernels& neon_kernels() {
  static constexpr Kernels kernels =
      neon::make_kernels("neon", "NEON, 4 lanes", [] { return true; });
  return kernels;
}

}  // namespace gdn::cpu
#endif
