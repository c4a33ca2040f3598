// Every kernel, compiled for the instruction set of the target file that includes this.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/fpmode.h"
#include "cpu/kernels.h"
#include "problem.h"
// Each of the following opens the instruction set's namespace itself; the order matters.
#include "cpu/simd-inl.h"
//
#include "cpu/tile-inl.h"
//
#if defined(GDN_ISA_HAS_BF16_DOT)
#include "cpu/bf16_dot-inl.h"
#endif
//
#include "cpu/pairs-inl.h"
//
#include "cpu/l2norm-inl.h"
//
#include "cpu/gating-inl.h"
//
#include "cpu/rms_norm_gated-inl.h"
//
#include "cpu/causal_conv1d-inl.h"
//
#include "cpu/panels-inl.h"
//
#include "cpu/chunk_gates-inl.h"
//
#include "cpu/chunk_rows-inl.h"
//
#include "cpu/chunk_walk-inl.h"
//
#include "cpu/chunk-inl.h"
//
#if defined(GDN_ISA_HAS_BF16_DOT)
#include "cpu/chunk_bf16-inl.h"
#endif
//
#include "cpu/state_rows-inl.h"
//
#include "cpu/state_columns-inl.h"
//
#include "cpu/tokens-inl.h"
//
#include "cpu/state-inl.h"
//
#include "cpu/decode-inl.h"
//
#include "cpu/recurrent-inl.h"
//
#include "cpu/replay-inl.h"
//
#include "cpu/solve_tril-inl.h"

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

constexpr Kernels make_kernels(const char* name, const char* description, bool (*supported)()) {
  return {
    .name = name, .description = description, .supported = supported,
    .chunk_scratch = &chunk_scratch, .chunk = &chunk,
#if defined(GDN_ISA_HAS_BF16_DOT)
    .chunk_bf16_scratch = &chunk_bf16_scratch, .chunk_bf16 = &chunk_bf16,
#else
    .chunk_bf16_scratch = nullptr, .chunk_bf16 = nullptr,
#endif
    .recurrent_scratch = &recurrent_scratch, .recurrent = &recurrent,
    .replay_scratch = &replay_scratch, .replay = &replay, .gating = &gating, .l2norm = &l2norm,
    .solve_tril_scratch = &solve_tril_scratch, .solve_tril = &solve_tril,
    .rms_norm_gated_scratch = &rms_norm_gated_scratch, .rms_norm_gated = &rms_norm_gated,
    .causal_conv1d_scratch = &causal_conv1d_scratch, .causal_conv1d = &causal_conv1d,
  };
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
