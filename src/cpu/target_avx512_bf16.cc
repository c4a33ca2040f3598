// AVX-512 with bfloat16 dot products: Zen 4 and later, Cooper Lake, Sapphire Rapids and later.
#if defined(__x86_64__)
#define GDN_ISA avx512_bf16
#define GDN_HWY_TARGET HWY_AVX3
#define GDN_ISA_FEATURES ",avx512bf16"
#define GDN_ISA_HAS_BF16_DOT
#include "cpu/isa.h"
// After isa.h.
#include "cpu/all_kernels-inl.h"
#include "cpu/targets.h"

namespace gdn::cpu {

const Kernels& avx512_bf16_kernels() {
  static constexpr Kernels kernels =
      avx512_bf16::make_kernels("avx512_bf16", "AVX-512 with bfloat16 dot products, 16 lanes", [] {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bf16");
      });
  return kernels;
}

}  // namespace gdn::cpu
#endif
