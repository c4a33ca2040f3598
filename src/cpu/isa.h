// Included first by every target_*.cc: compiles Highway and the kernels for one instruction set by
// pragmas around our own functions, never by -m flags, so that no inline standard function is
// compiled for it (the linker could keep that copy for everyone). The file defines before:
//   GDN_ISA           the namespace of this copy of the kernels, in gdn::cpu
//   GDN_HWY_TARGET    the Highway target that the vector types come from
//   GDN_ISA_FEATURES  further compiler features, ",avx512bf16" say; may be empty
//   GDN_ISA_HAS_BF16_DOT  where bfloat16 dot products exist (bf16_dot-inl.h)
//   GDN_ISA_STATE_TO_L2   where decode asks the second-level cache for states early
//                         (state_rows-inl.h, -_tiles-, -_walk-): how many bytes ahead
//   GDN_ISA_STATE_TIES_AWAY  where decode rounds bfloat16 states by integers (pairs-inl.h)
//   GDN_ISA_HAS_STATE_TILES  where decode of bfloat16 states is on tiles (state_tiles-inl.h)
//   GDN_ISA_WALKS_STATES  where decode walks states row by row (state_walk-inl.h)
#pragma once

#define HWY_BASELINE_TARGETS GDN_HWY_TARGET
#define HWY_COMPILE_ONLY_STATIC

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#if defined(HWY_TARGET_STR)
#define GDN_BEFORE_KERNELS() HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR GDN_ISA_FEATURES)
#define GDN_AFTER_KERNELS() HWY_POP_ATTRIBUTES
#else  // the compiler's own baseline: scalar, NEON on AArch64
#define GDN_BEFORE_KERNELS()
#define GDN_AFTER_KERNELS()
#endif
