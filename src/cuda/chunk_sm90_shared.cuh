// Shared memory of the recurrence of the chunk operator on Hopper, and the barriers by which the
// warps that move hand it to those that compute and back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/chunk_sm90_record.h"
#include "cuda/element.cuh"
#include "cuda/wgmma.cuh"

namespace gdn::cuda::sm90 {

constexpr int kColumns = 64;  // V columns of a warpgroup: the rows of its products
constexpr int kGroup = 128;   // threads of a warpgroup that has a state
constexpr int kStateWarps = kGroup / kWarp;
// compute-sanitizer's racecheck does not see that a __syncwarp orders what a warp's lanes read
// or wrote before one of them arrives at a barrier, nor which barrier tells of what another block's
// multicast wrote. For it every lane arrives, and blocks are no clusters.
#if defined(GDN_RACECHECK)
constexpr bool kForRacecheck = true;
#else
constexpr bool kForRacecheck = false;
#endif
constexpr int kArrivals = kForRacecheck ? kWarp : 1;  // of the lanes of a warp
__device__ inline bool arrives() { return threadIdx.x % kWarp < kArrivals; }
constexpr int kTileBytes = kChunk * 64 * 2;

// T or P: the panels of chunk_sm90_record.h, each with all its rows, those above the diagonal zero.
struct Panels {
  static constexpr int kCount = HeadRecord::kTiles;
  static constexpr int kPanelBytes = kChunk * HeadRecord::kTile * 2;
  std::byte panel[kCount][kPanelBytes];
};

// Tokens of a chunk as stored, tiles of 64 columns in the 128-byte swizzle (wgmma.cuh) one after
// another, and their factors. v has the columns of all warpgroups.
template <int K, int kGroups>
struct Tokens {
  static constexpr int kRowTiles = K / 64;
  alignas(1024) std::byte k[kRowTiles * kTileBytes];
  std::byte q[kRowTiles * kTileBytes];
  std::byte v[kGroups * kTileBytes];
  RecordVectors vectors;
};
// For X T^T.
struct Inverse {
  alignas(1024) Panels T_high, T_low;
};
// For what follows from V_new: the output and the state.
template <int K>
struct Products {
  alignas(1024) KeyRecord<K> keys;
  Panels P;
};

// A state in memory.
struct StatePlace {
  std::byte* block = nullptr;  // its first element of the columns; nullptr: nowhere
  DType dtype = DType::kF32;
  StateLayout layout = StateLayout::kVK;
};

// Where a walk's state goes, kept here: registers are short while it walks.
struct Destination {
  StatePlace end;
  // Of checkpoints: the columns' first element in a slot, the sequence, and whole chunks, behind
  // which alone there is one.
  int64_t offset;
  int n, whole;
};

// Stages, filled ahead, of three kinds, for a chunk holds each of them for another time: its tokens
// for four fifths of it, T and the rest for a third. A load takes somewhat longer than a chunk.
// kGroups: warpgroups with a state; a chunk of two takes longer than a load, and two stages are
// enough for all.
template <int K, int kGroups>
struct Shared {
  static constexpr int kTokenStages = kGroups == 1 ? 3 : 2, kRecordStages = 2, kOutStages = 2;
  static constexpr int kWarps = kGroups * kStateWarps;  // that have a state
  static constexpr int kTokenLoaders = kGroups;         // warps
  // Else of two of a q/k head, and what the preparation left of a value head is a block's own.
  static constexpr bool kClusterOfOneHead = kGroups == 1;
  Tokens<K, kGroups> tokens[kTokenStages];
  Inverse inverse[kRecordStages];
  Products<K> products[kRecordStages];
  alignas(1024) std::byte out[kOutStages][kGroups * kTileBytes];
  uint64_t tokens_full[kTokenStages], tokens_empty[kTokenStages];
  uint64_t inverse_full[kRecordStages], inverse_empty[kRecordStages];
  uint64_t products_full[kRecordStages], products_empty[kRecordStages];
  uint64_t out_full[kOutStages], out_empty[kOutStages];
  // Of the warps' residuals: whether float16 holds them, by turns (those of the record's stages),
  // and the largest.
  alignas(4) uint8_t held[kRecordStages][kWarps];
  alignas(16) uint32_t largest[kWarps];
  Destination to[kWarps];
};

// Which of kStages a chunk has, and which phase of its barriers.
template <int kStages>
struct Cursor {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
  __device__ __forceinline__ Cursor next() const {
    Cursor after = *this;
    after.advance();
    return after;
  }
};

}  // namespace gdn::cuda::sm90
