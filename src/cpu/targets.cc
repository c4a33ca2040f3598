// Which instruction sets this build has. A new one is a target_*.cc and a line here.
#include <array>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/targets.h"

namespace gdn::cpu {

std::span<const Kernels* const> targets() {
#if defined(__x86_64__)
  static const std::array<const Kernels*, 6> list = [] {
    const Kernels *amx = &amx_bf16_kernels(), *zen4 = &avx512_zen4_kernels(),
                  *dots = &avx512_bf16_kernels(), *floats = &avx512_kernels();
    const Kernels *avx2 = &avx2_kernels(), *scalar = &scalar_kernels();
    // A bfloat16 dot product does twice the work of a float32 multiply-add. AMD's processors start
    // as many of it in a cycle; Intel's, from Cooper Lake to Emerald Rapids, a quarter, so that
    // without tiles float32 is the faster there, and exact.
    if (__builtin_cpu_is("intel")) std::swap(dots, floats);
      // Those behind `scalar` are taken only by name. Zen 4 is what has bfloat16 products in its
      // family.
#if defined(GDN_EMULATE_AMX)
    if (__builtin_cpu_is("amdfam19h")) return std::array{zen4, dots, floats, avx2, scalar, amx};
    return std::array{dots, floats, avx2, scalar, zen4, amx};
#else
    if (__builtin_cpu_is("amdfam19h")) return std::array{amx, zen4, dots, floats, avx2, scalar};
    return std::array{amx, dots, floats, avx2, scalar, zen4};
#endif
  }();
#elif defined(__aarch64__)
  static const std::array<const Kernels*, 2> list = {&neon_kernels(), &scalar_kernels()};
#else
  static const std::array<const Kernels*, 1> list = {&scalar_kernels()};
#endif
  return list;
}

}  // namespace gdn::cpu
