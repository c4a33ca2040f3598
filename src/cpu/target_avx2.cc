// AVX2 with FMA and F16C: x86-64-v3.
#define GDN_ISA avx2
#define GDN_HWY_TARGET HWY_AVX2
#define GDN_ISA_FEATURES ""
#include "cpu/isa.h"
// After isa.h.
#include "cpu/all_kernels-inl.h"
#include "cpu/targets.h"

namespace gdn::cpu {

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = avx2::make_kernels("avx2", "AVX2 and FMA, 8 lanes", [] {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
  });
  return kernels;
}

}  // namespace gdn::cpu
