// AVX2 with FMA and F16C: x86-64-v3.
#if defined(__x86_64__)
#define GDN_ISA avx2
#define GDN_HWY_TARGET HWY_AVX2
#define GDN_ISA_FEATURES ""
#include "cpu/isa.h"
// After isa.h.
#include <cpuid.h>

#include "cpu/all_kernels-inl.h"
#include "cpu/targets.h"

namespace gdn::cpu {
namespace {

// __builtin_cpu_supports of Clang 14 does not know F16C.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = avx2::make_kernels("avx2", "AVX2 and FMA, 8 lanes", [] {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
           __builtin_cpu_supports("bmi2");
  });
  return kernels;
}

}  // namespace gdn::cpu
#endif
