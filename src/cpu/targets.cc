// Which instruction sets this build has. A new one is a target_*.cc and a line here.
#include <array>

#include "cpu/kernels.h"
#include "cpu/targets.h"

namespace gdn::cpu {

std::span<const Kernels* const> targets() {
#if defined(__x86_64__)
  static const std::array<const Kernels*, 4> list = {&avx512_bf16_kernels(), &avx512_kernels(),
                                                     &avx2_kernels(), &scalar_kernels()};
#elif defined(__aarch64__)
  static const std::array<const Kernels*, 2> list = {&neon_kernels(), &scalar_kernels()};
#else
  static const std::array<const Kernels*, 1> list = {&scalar_kernels()};
#endif
  return list;
}

}  // namespace gdn::cpu
