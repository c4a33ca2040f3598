// Which instruction sets this build has. A new one is a target_*.cc and a line here.
#include <array>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/targets.h"

namespace gdn::cpu {

std::span<const Kernels* const> targets() {
#if defined(__x86_64__)
  static const std::array<const Kernels*, 5> list = [] {
    const Kernels *amx = &amx_bf16_kernels(), *dots = &avx512_bf16_kernels(),
                  *floats = &avx512_kernels();
    // A bfloat16 dot product does twice the work of a float32 multiply-add. AMD's processors start
    // as many of it in a cycle; Intel's, from Cooper Lake to Emerald Rapids, a quarter, so that
    // without tiles float32 is the faster there, and exact.
    if (__builtin_cpu_is("intel")) std::swap(dots, floats);
#if defined(GDN_EMULATE_AMX)
    return std::array{dots, floats, &avx2_kernels(), &scalar_kernels(), amx};  // only by name
#else
    return std::array{amx, dots, floats, &avx2_kernels(), &scalar_kernels()};
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
