// Shared memory of the recurrence of the chunk operator on Hopper, and the barriers by which its
// two warpgroups hand it to each other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/chunk_sm90_record.h"

namespace gdn::cuda::sm90 {

constexpr int kColumns = 64;  // V columns of a block: the rows of a warpgroup's products
constexpr int kStages = 3;    // chunks: the movers are two ahead of the state
constexpr int kGroup = 128;   // threads of a warpgroup
constexpr int kTileBytes = kChunk * 64 * 2;

// What a chunk brings. Tiles of 64 columns in the swizzle of chunk_sm90_record.h, one after
// another.
template <int K>
struct Stage {
  static constexpr int kRowTiles = K / 64;
  alignas(1024) std::byte k[kRowTiles * kTileBytes];  // as stored; float16 once S k is done
  std::byte q[kRowTiles * kTileBytes];
  std::byte v[kTileBytes];
  HeadRecord record;
};

template <int K>
struct Shared {
  Stage<K> stage[kStages];
  std::byte out[kTileBytes];  // of the chunk before
  // The movers: the chunk is there. The state: k as stored is not needed any more. The movers: k is
  // float16. The state: the chunk is not needed any more.
  uint64_t full[kStages], k_read[kStages], k_ready[kStages], empty[kStages];
  uint64_t out_full, out_empty;
};

// Which stage, and which phase of its barriers, a chunk has.
struct Cursor {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

}  // namespace gdn::cuda::sm90
