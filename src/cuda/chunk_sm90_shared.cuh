// Shared memory of the recurrence of the chunk operator on Hopper, and the barriers by which its
// four warpgroups hand it to each other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/chunk_sm90_record.h"
#include "cuda/element.cuh"

namespace gdn::cuda::sm90 {

constexpr int kColumns = 64;  // V columns of a block: the rows of a warpgroup's products
constexpr int kStages = 3;    // chunks: the loaders are two ahead of the state
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

// From a state warp to the output warp with the same rows: packed operands, as the lanes hold them.
template <int kWords>
struct Mail {
  uint4 words[4][kWords / 4][kWarp];

  __device__ __forceinline__ void put(int warp, int lane, const uint32_t (&x)[kWords]) {
#pragma unroll
    for (int i = 0; i < kWords / 4; ++i) {
      words[warp][i][lane] = {x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]};
    }
  }
  __device__ __forceinline__ void take(int warp, int lane, uint32_t (&x)[kWords]) const {
#pragma unroll
    for (int i = 0; i < kWords / 4; ++i) {
      const uint4 four = words[warp][i][lane];
      x[4 * i] = four.x;
      x[4 * i + 1] = four.y;
      x[4 * i + 2] = four.z;
      x[4 * i + 3] = four.w;
    }
  }
};

template <int K>
struct Shared {
  Stage<K> stage[kStages];
  Mail<K / 4> state;         // S of the chunk, packed
  Mail<kChunk / 4> v_new;    // V_new; then, for a warp itself, its 16 columns of the output
  float4 factors[4][kWarp];  // of the lane's two rows: of S Q^T, of the sum with it
  // Of a stage. The loaders: the chunk is there. The state: k as stored is not needed any more. The
  // converters: k is float16. State and output: the chunk is not needed any more.
  uint64_t full[kStages], k_read[kStages], k_ready[kStages], empty[kStages];
  // Of a warp's mail.
  uint64_t state_full[4], state_empty[4], v_new_full[4], v_new_empty[4];
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
