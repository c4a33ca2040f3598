#pragma once

#include "cpu/kernels.h"

namespace gdn::cpu {

const Kernels& scalar_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512_bf16_kernels();
const Kernels& avx512_zen4_kernels();
const Kernels& amx_bf16_kernels();
#elif defined(__aarch64__)
const Kernels& neon_kernels();
#endif

}  // namespace gdn::cpu
