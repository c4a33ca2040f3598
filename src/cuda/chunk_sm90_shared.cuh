// Shared memory of the recurrence of the chunk operator on Hopper, and the barriers by which the
// warps that move hand it to those that compute and back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/chunk_sm90_record.h"
#include "cuda/element.cuh"
#include "cuda/wgmma.cuh"

namespace gdn::cuda::sm90 {

constexpr int kColumns = 64;  // V columns of a block: the rows of a warpgroup's products
constexpr int kGroup = 128;   // threads of the warpgroup that has the state
constexpr int kStateWarps = kGroup / kWarp;
constexpr int kTileBytes = kChunk * 64 * 2;

// T or P: the panels of chunk_sm90_record.h, each with all its rows, those above the diagonal zero.
struct Panels {
  static constexpr int kCount = HeadRecord::kTiles;
  static constexpr int kPanelBytes = kChunk * HeadRecord::kTile * 2;
  std::byte panel[kCount][kPanelBytes];
};

// Tokens of a chunk as stored: tiles of 64 columns in the 128-byte swizzle (wgmma.cuh), one after
// another.
template <int K>
struct Tokens {
  static constexpr int kRowTiles = K / 64;
  alignas(1024) std::byte k[kRowTiles * kTileBytes];
  std::byte q[kRowTiles * kTileBytes];
  std::byte v[kTileBytes];
};

// What the preparation made of it.
template <int K>
struct Prepared {
  alignas(1024) KeyRecord<K> keys;
  Panels T_high, T_low, P;
  RecordVectors vectors;
};

template <int K>
struct Shared {
  // The products with k and q come first, those with the rest half a chunk later; both are filled
  // ahead, as far as there is room.
  static constexpr int kTokenStages = 2, kPreparedStages = 3, kOutStages = 2;
  Tokens<K> tokens[kTokenStages];
  Prepared<K> prepared[kPreparedStages];
  alignas(1024) std::byte out[kOutStages][kTileBytes];
  uint64_t tokens_full[kTokenStages], tokens_empty[kTokenStages];
  uint64_t prepared_full[kPreparedStages], prepared_empty[kPreparedStages];
  uint64_t out_full[kOutStages], out_empty[kOutStages];
  alignas(16) uint32_t largest[3][kStateWarps];  // of the warps' residuals, by turns
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
};

}  // namespace gdn::cuda::sm90
