// Decode as Zen 4 wants it: states walked row by row, and few prefetches. Everything else is that
// of AVX-512 with bfloat16 dot products.
#if defined(__x86_64__)
#define GDN_ISA avx512_zen4
#define GDN_HWY_TARGET HWY_AVX3
#define GDN_ISA_FEATURES ",avx512bf16"
#define GDN_ISA_HAS_BF16_DOT
#define GDN_ISA_STATE_TO_L2 12288
#define GDN_ISA_WALKS_STATES
#include "cpu/isa.h"
// After isa.h.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/targets.h"
// In this order.
#include "cpu/simd-inl.h"
//
#include "cpu/l2norm-inl.h"
//
#include "cpu/gating-inl.h"
//
#include "cpu/tile-inl.h"
//
#include "cpu/bf16_dot-inl.h"
//
#include "cpu/pairs-inl.h"
//
#include "cpu/state_rows-inl.h"
//
#include "cpu/state_columns-inl.h"
//
#include "cpu/tokens-inl.h"
//
#include "cpu/state-inl.h"
//
#include "cpu/given_rows-inl.h"
//
#include "cpu/state_walk-inl.h"
//
#include "cpu/decode-inl.h"
//
#include "cpu/recurrent-inl.h"

namespace gdn::cpu {

const Kernels& avx512_zen4_kernels() {
  static const Kernels kernels = [] {
    Kernels k = avx512_bf16_kernels();
    k.name = "avx512_zen4";
    k.description = "avx512_bf16, decode row by row for Zen 4";
    k.recurrent_scratch = &avx512_zen4::recurrent_scratch;
    k.recurrent = &avx512_zen4::recurrent;
    return k;
  }();
  return kernels;
}

}  // namespace gdn::cpu
#endif
