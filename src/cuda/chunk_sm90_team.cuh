// What the four warps share that prepare an item of the chunk operator on Hopper, a chunk and up to
// four value heads of a q/k head: their memory, and which rows and registers a lane has of a
// matrix.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/chunk_beside.h"
#include "cuda/chunk_sm90_inverse.cuh"
#include "cuda/chunk_sm90_record.h"
#include "cuda/element.cuh"
#include "cuda/hopper.cuh"

namespace gdn::cuda::sm90 {

// A team of four warps works out an item; a block has one team, or as many as fit a multiprocessor
// (chunk_beside.h).
constexpr int kTeamThreads = kTiles * kWarp;
__device__ __forceinline__ int team_thread() {
  return static_cast<int>(threadIdx.x) % kTeamThreads;
}
__device__ __forceinline__ void sync_team() {
  sync_threads<kTeamThreads>(1 + static_cast<int>(threadIdx.x) / kTeamThreads);
}
static_assert(kMostHeadsAtOnce <= kTiles);
constexpr int kPanelBytes = kChunk * 128;  // 64 columns of k or q, as wgmma wants them

// Of a value head, from its gates alone. Exponents are those of 2. Between two blocks of 16 rows
// D_ij is the product of two factors that meet at the first row of i's block: a factor a row and a
// factor a column in place of an exponential an element.
struct alignas(16) HeadGates {
  float2 G[kChunk];  // a sum of two floats, for differences of any two
  // Of block w's rows, from 8 w (w + 1): exp(G_first - G_j) of the columns j before them, then
  // exp(G_i - G_first) of the rows. The warp of these rows writes and reads them.
  float factors[(kPlaces + kTiles) * kTile];
  float beta[kChunk];  // over T_power
  float sum, T_power;  // of g; power of two
  // Sums of g rise so far that the products of two factors may not hold: then the exponent of the
  // largest D_ij, rounded up, else 0.
  float rise;

  __device__ __forceinline__ const float* factors_of(int w) const {
    return factors + 8 * w * (w + 1);
  }
};

// A value head's T and B.
struct SystemPlace {
  std::byte T_high[HeadRecord::kMatrixBytes], T_low[HeadRecord::kMatrixBytes];
  TilePlace B[kPlaces];
};
// Matrices lie where the rows of k and q were: P of three heads, so that one leaves while the next
// is made, then the systems of two.
constexpr int kPlacesOfP = 3, kPair = 2;
struct PrepareShared {
  union {
    std::byte rows[4 * kPanelBytes];  // k, then q
    struct {
      std::byte k_rows[2 * kPanelBytes];  // of K = 128; still to be read when P is made
      std::byte P[kPlacesOfP][HeadRecord::kMatrixBytes];
    };
    SystemPlace systems[kPair];
    float large_T[kChunk * kChunk];
  };
  DiagonalPlace diagonal[kTiles];
  float k_norm[kChunk], q_norm[kChunk];  // kn and qn of the record; 0 past the end
  float k_power_inverse[kChunk];
  uint32_t to_halves[kChunk];                     // ToHalves of k's rows
  uint32_t k_largest[kTiles], q_largest[kTiles];  // bits of |k_i|^2 and |q_i|^2, of the warps
  uint32_t largest[kTiles];                       // bits of |T_ij|
  // Whether T is, in the columns of blocks.
  alignas(4) bool infinite[kPair][kTiles];
  HeadGates heads[];
};
static_assert(offsetof(PrepareShared, P) + sizeof(PrepareShared::P) <= sizeof(PrepareShared::rows));
static_assert(sizeof(PrepareShared::systems) <= sizeof(PrepareShared::rows));
static_assert(offsetof(PrepareShared, heads) % 16 == 0);

// Rows 16 warp + lane / 4 and 8 further; columns 2 (lane % 4) and the next of every eight.
struct LanePlace {
  int warp, lane, i0, i1, column;
  __device__ __forceinline__ LanePlace()
      : warp(__shfl_sync(kAllLanes, team_thread() / kWarp, 0)),
        lane(static_cast<int>(threadIdx.x) % kWarp),
        i0(warp * kTile + lane / 4),
        i1(i0 + 8),
        column(lane % 4 * 2) {}
  // The same, not known to be: else the compiler keeps the addresses of all places through loops.
  __device__ __forceinline__ LanePlace again() const {
    LanePlace at = *this;
    asm volatile("" : "+r"(at.lane));
    at.i0 = at.warp * kTile + at.lane / 4;
    at.i1 = at.i0 + 8;
    at.column = at.lane % 4 * 2;
    return at;
  }
};

// The code for the four warps is one, lest they compete for the instruction cache: the block on the
// diagonal, which lies elsewhere in each, is put last, where nothing but the last warp's lies below
// or on the diagonal.
constexpr int kDiagonal = 3 * kTile / 2;  // its first register
__device__ __forceinline__ void put_diagonal_last(float (&x)[32], int warp) {
#pragma unroll
  for (int w = 0; w + 1 < kTiles; ++w) {
#pragma unroll
    for (int e = 0; e < kTile / 2; ++e) {
      if (w == warp) x[kDiagonal + e] = x[w * kTile / 2 + e];
    }
  }
}

}  // namespace gdn::cuda::sm90
