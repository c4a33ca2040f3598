// AMX's tiles for prefill in bfloat16 and for decode of bfloat16 states; for the processors that
// have them, Sapphire Rapids and later, decode with prefetches, and of float32 states in place with
// dot products beside the update. Everything else is the AVX-512 kernels', which they have too.
#if defined(__x86_64__)
#define GDN_ISA amx_bf16
#define GDN_HWY_TARGET HWY_AVX3
#define GDN_ISA_FEATURES ",avx512bf16"
#define GDN_ISA_HAS_BF16_DOT
#define GDN_ISA_STATE_TO_L2 16384
#define GDN_ISA_HAS_STATE_TILES
#define GDN_ISA_STATE_TIES_AWAY
#include "cpu/isa.h"
// After isa.h.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "cpu/amx_permission.h"
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
#include "cpu/panels-inl.h"
//
#include "cpu/chunk_gates-inl.h"
//
#include "cpu/chunk_rows-inl.h"
//
#include "cpu/chunk_walk-inl.h"
//
#include "cpu/bf16_dot-inl.h"
//
#include "cpu/amx_tile-inl.h"
//
#include "cpu/chunk_amx_gates-inl.h"
//
#include "cpu/chunk_amx_panel-inl.h"
//
#include "cpu/chunk_amx-inl.h"
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
#include "cpu/state_in_place-inl.h"
//
#include "cpu/given_rows-inl.h"
//
#include "cpu/state_tiles-inl.h"
//
#include "cpu/decode-inl.h"
//
#include "cpu/recurrent-inl.h"

namespace gdn::cpu {

const Kernels& amx_bf16_kernels() {
  static const Kernels kernels = [] {
    Kernels k = avx512_bf16_kernels();
    k.name = "amx_bf16";
#if defined(GDN_EMULATE_AMX)
    k.description = "AMX bfloat16 tiles, emulated";
#else
    k.description = "AMX bfloat16 tiles, AVX-512 beside them";
    k.supported = [] { return avx512_bf16_kernels().supported() && amx_permitted(); };
#endif
    k.chunk_of_bf16 = amx_bf16::kAmxChunk;
    k.repeated_of_bf16 = 2;        // with inverses; the columns themselves are quick
    k.states_of_bf16 = 512 << 10;  // a quarter of the second-level cache
    k.chunk_bf16_scratch = &amx_bf16::chunk_amx_scratch;
    k.chunk_bf16 = &amx_bf16::chunk_amx;
    k.recurrent_scratch = &amx_bf16::recurrent_scratch;
    k.recurrent = &amx_bf16::recurrent;
    return k;
  }();
  return kernels;
}

}  // namespace gdn::cpu
#endif
