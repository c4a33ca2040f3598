// The baseline: one lane at a time, whatever the compiler makes of it.
#define GDN_ISA scalar
#define GDN_HWY_TARGET HWY_SCALAR
#define GDN_ISA_FEATURES ""
#include "cpu/isa.h"
// After isa.h.
#include "cpu/all_kernels-inl.h"
#include "cpu/targets.h"

namespace gdn::cpu {

const Kernels& scalar_kernels() {
  static constexpr Kernels kernels =
      scalar::make_kernels("scalar", "portable C++, one lane", [] { return true; });
  return kernels;
}

}  // namespace gdn::cpu
