// AVX-512 F, BW, DQ, VL: x86-64-v4.
#if defined(__x86_64__)
#define GDN_ISA avx512
#define GDN_HWY_TARGET HWY_AVX3
#define GDN_ISA_FEATURES ""
#include "cpu/isa.h"
// After isa.h.
#include "cpu/all_kernels-inl.h"
#include "cpu/targets.h"

namespace gdn::cpu {

const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = avx512::make_kernels("avx512", "AVX-512, 16 lanes", [] {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  });
  return kernels;
}

}  // namespace gdn::cpu
#endif
