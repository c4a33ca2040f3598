// The preparation of the chunk operator on Hopper, of a value head: P, the systems and T from Gram
// matrices and decays, in quick forms, and where these do not hold in others.
#pragma once

#include <cfloat>

#include "cuda/chunk_sm90_decays.cuh"
#include "cuda/chunk_sm90_inverse.cuh"
#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_team.cuh"
#include "cuda/gates.cuh"
#include "cuda/hopper.cuh"
#include "cuda/mma.cuh"

namespace gdn::cuda::sm90 {

// D_ij kn_j of the lane's elements in the block on the diagonal: of its upper left, lower left and
// lower right 8 x 8 parts.
struct DiagonalDecay {
  float upper[2], corner[2], lower[2];

  __device__ __forceinline__ DiagonalDecay(const PrepareShared& m, const HeadGates& h,
                                           const LanePlace& at) {
    const int j = at.warp * kTile + at.column;
    const float4 left = *reinterpret_cast<const float4*>(h.G + j);
    const float4 right = *reinterpret_cast<const float4*>(h.G + j + 8);
    const float2 left_norm = *reinterpret_cast<const float2*>(m.k_norm + j);
    const float2 right_norm = *reinterpret_cast<const float2*>(m.k_norm + j + 8);
    const float2 G0 = h.G[at.i0], G1 = h.G[at.i1];
    constexpr float kAbove = -1e30f;
    const bool first = at.lane / 4 >= at.column, second = at.lane / 4 > at.column;
    upper[0] = exp2_quick(first ? decay_exponent(G0, left.x, left.y) : kAbove) * left_norm.x;
    upper[1] = exp2_quick(second ? decay_exponent(G0, left.z, left.w) : kAbove) * left_norm.y;
    corner[0] = exp2_quick(decay_exponent(G1, left.x, left.y)) * left_norm.x;
    corner[1] = exp2_quick(decay_exponent(G1, left.z, left.w)) * left_norm.y;
    lower[0] = exp2_quick(first ? decay_exponent(G1, right.x, right.y) : kAbove) * right_norm.x;
    lower[1] = exp2_quick(second ? decay_exponent(G1, right.z, right.w) : kAbove) * right_norm.y;
  }
};

// D_ij kn_j of columns 8 n + ... left of the diagonal, but for the row's factor.
__device__ __forceinline__ float2 column_factor(const PrepareShared& m, const HeadGates& h, int n,
                                                const LanePlace& at) {
  const int j = 8 * n + at.column;
  const float2 norm = *reinterpret_cast<const float2*>(m.k_norm + j);
  const float2 f = *reinterpret_cast<const float2*>(h.factors_of(at.warp) + j);
  return {f.x * norm.x, f.y * norm.y};
}

__device__ __forceinline__ void store_P(const uint32_t (&P)[4], uint32_t matrix, int row_tile,
                                        int column_tile, int lane) {
  store_matrices(matrix + HeadRecord::tile_offset(row_tile, column_tile) +
                     HeadRecord::in_tile(lane / 8 % 2 * 8 + lane % 8, lane / 16 * 8),
                 P[0], P[1], P[2], P[3]);
}

// The warp's rows of P, up to the diagonal. scale: over P_power.
__device__ __forceinline__ void make_P(const float (&qk)[32], const PrepareShared& m,
                                       const HeadGates& h, float scale, uint32_t matrix,
                                       const LanePlace& at) {
  const float q0 = scale * m.q_norm[at.i0], q1 = scale * m.q_norm[at.i1];
  const float row0 = q0 * h.factors_of(at.warp)[at.i0], row1 = q1 * h.factors_of(at.warp)[at.i1];
#pragma unroll
  for (int tile = 0; tile + 1 < kTiles; ++tile) {
    if (tile >= at.warp) break;
    uint32_t P[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int n = 2 * tile + half;
      const float2 f = column_factor(m, h, n, at);
      P[2 * half] = pack_halves(qk[4 * n] * f.x * row0, qk[4 * n + 1] * f.y * row0);
      P[2 * half + 1] = pack_halves(qk[4 * n + 2] * f.x * row1, qk[4 * n + 3] * f.y * row1);
    }
    store_P(P, matrix, at.warp, tile, at.lane);
  }
  const DiagonalDecay d(m, h, at);
  const float* x = qk + kDiagonal;
  const uint32_t P[4] = {pack_halves(x[0] * d.upper[0] * q0, x[1] * d.upper[1] * q0),
                         pack_halves(x[2] * d.corner[0] * q1, x[3] * d.corner[1] * q1), 0,
                         pack_halves(x[6] * d.lower[0] * q1, x[7] * d.lower[1] * q1)};
  store_P(P, matrix, at.warp, at.warp, at.lane);
}

// The warp's rows of B and diag(beta) B: blocks left of the diagonal to `blocks`, the 8 x 8 parts
// on it to m.diagonal, the one between these to the result.
__device__ __forceinline__ SplitPair make_system(const float (&kk)[32], PrepareShared& m,
                                                 const HeadGates& h, TilePlace* blocks,
                                                 const LanePlace& at) {
  const float k0 = h.T_power * m.k_norm[at.i0], k1 = h.T_power * m.k_norm[at.i1];
  const float row0 = k0 * h.factors_of(at.warp)[at.i0], row1 = k1 * h.factors_of(at.warp)[at.i1];
#pragma unroll
  for (int tile = 0; tile + 1 < kTiles; ++tile) {
    if (tile >= at.warp) break;
    SplitTile B;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int n = 2 * tile + half;
      const float2 f = column_factor(m, h, n, at);
      B.set(2 * half, split(kk[4 * n] * f.x * row0, kk[4 * n + 1] * f.y * row0));
      B.set(2 * half + 1, split(kk[4 * n + 2] * f.x * row1, kk[4 * n + 3] * f.y * row1));
    }
    blocks[place_of(at.warp, tile)].store(B, at.lane);
  }
  const DiagonalDecay d(m, h, at);
  const float* x = kk + kDiagonal;
  const float b0 = h.beta[at.i0] * k0, b1 = h.beta[at.i1] * k1;
  DiagonalPlace& place = m.diagonal[at.warp];
  *reinterpret_cast<float2*>(place.system(0, at.lane / 4, at.column)) = {x[0] * d.upper[0] * b0,
                                                                         x[1] * d.upper[1] * b0};
  *reinterpret_cast<float2*>(place.system(1, at.lane / 4, at.column)) = {x[6] * d.lower[0] * b1,
                                                                         x[7] * d.lower[1] * b1};
  return split(x[2] * d.corner[0] * k1, x[3] * d.corner[1] * k1);
}

// The warp's rows of the systems of some value heads, and their diagonal blocks of T.
__device__ __forceinline__ void make_systems(const float (&kk)[32], PrepareShared& m,
                                             const HeadGates* heads, int count,
                                             const LanePlace& here) {
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const LanePlace at = here.again();
    SystemPlace& place = m.systems[i];
    const SplitPair below = make_system(kk, m, heads[i], place.B, at);
    const SplitTile diagonal =
        invert_diagonal(m.diagonal[at.warp], heads[i].beta + at.warp * kTile, below, at.lane);
    store_transposed(diagonal, shared_address(place.T_high), shared_address(place.T_low), at.warp,
                     at.warp, at.lane);
  }
}

// The blocks of T below the diagonal of some value heads. A warp has a column of each, a long one
// of one head and a short one of the next.
__device__ __forceinline__ void solve_systems(PrepareShared& m, int count, int warp, int lane) {
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const int column = i % 2 == 0 ? warp : kTiles - 1 - warp;
    const SystemPlace& place = m.systems[i];
    const uint32_t T_high = shared_address(place.T_high), T_low = shared_address(place.T_low);
    const SplitTile diagonal = load_transposed(T_high, T_low, column, column, lane);
    FiniteCheck check;
    check.add(diagonal);
    solve_column(column, diagonal, place.B, T_high, T_low, &check, lane);
    const bool infinite = check.failed();
    if (lane == 0) m.infinite[i][column] = infinite;
  }
}

// A thread a token: in the first two warps, whose rows of P are the shortest.
__device__ __forceinline__ void store_vectors(const PrepareShared& m, const HeadGates& h,
                                              float scale, float P_power, RecordVectors* record) {
  const int i = team_thread();
  if (i >= kChunk) return;
  const uint32_t rise = static_cast<uint32_t>(h.rise) << 23;
  const float inverse = __uint_as_float(0x3f800000u - rise);
  const float2 G = h.G[i], end = h.G[kChunk - 1];
  const float kn = m.k_norm[i], qn = m.q_norm[i], k_power_inverse = m.k_power_inverse[i];
  const float from_start = exp2_finite(G.x);
  const float to_end = exp2_finite(decay_exponent(end, G.x, G.y));
  record->residual[i] = from_start * kn;
  record->output[i] = scale * from_start * qn;
  record->update[i] = to_end * inverse * kn * k_power_inverse;
  if (i == 0) {
    const float growth = __uint_as_float(0x3f800000u + rise);
    float decay = decay_of(h.sum);
    if (decay > FLT_MAX) decay = FLT_MAX;  // NaN passes
    record->decay = decay * inverse;
    record->P_power = P_power * growth;
    record->growth = growth;
  }
}

// --- Where the quick forms do not hold: an exponential an element, T in float32.

template <class Body>  // body(register, row, column, decay, at most 2^(128 - exponent))
__device__ __forceinline__ void for_each_decay(const HeadGates& h, const LanePlace& here,
                                               float exponent, const Body& body) {
  constexpr float kHighest = 127.99f;
  const LanePlace at = here.again();
  const float2 G0 = h.G[at.i0], G1 = h.G[at.i1];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const bool on_diagonal = tile + 1 == kTiles;
    if (!on_diagonal && tile >= at.warp) continue;
    const int first = (on_diagonal ? at.warp : tile) * kTile + at.column;
#pragma unroll
    for (int e = 0; e < kTile / 2; ++e) {
      const int i = e % 4 < 2 ? at.i0 : at.i1, j = first + e / 4 * 8 + e % 2;
      const float2 Gj = h.G[j];
      const float d = decay_exponent(e % 4 < 2 ? G0 : G1, Gj.x, Gj.y);
      body(tile * kTile / 2 + e, i, j,
           i >= j ? exp2_quick((d > kHighest ? kHighest : d) - exponent) : 0.0f);
    }
  }
}

// The byte of element (row, column) of a matrix of the record, in a tile that is there.
__device__ __forceinline__ int element_offset(int row, int column) {
  return HeadRecord::tile_offset(row / kTile, column / kTile) +
         HeadRecord::in_tile(row % kTile, column % kTile);
}

// The warp's rows of P, of which the decays are over 2^rise.
__device__ __forceinline__ void make_steep_P(const float (&qk)[32], const PrepareShared& m,
                                             const HeadGates& h, float scale, std::byte* matrix,
                                             const LanePlace& at) {
  for_each_decay(h, at, h.rise, [&](int e, int i, int j, float decay) {
    *reinterpret_cast<__half*>(matrix + element_offset(i, j)) =
        __float2half_rn(qk[e] * (decay * m.k_norm[j]) * (scale * m.q_norm[i]));
  });
}

// The largest of all threads' |x|, which are given as bits.
__device__ __forceinline__ uint32_t team_largest(PrepareShared& m, uint32_t bits) {
  bits = __reduce_max_sync(kAllLanes, bits);
  sync_team();
  if (threadIdx.x % kWarp == 0) m.largest[team_thread() / kWarp] = bits;
  sync_team();
  return max(max(m.largest[0], m.largest[1]), max(m.largest[2], m.largest[3]));
}

// T by substitution in float32; the result goes to the record, over a power of two that is
// returned.
__device__ __forceinline__ float make_large_T(const float (&kk)[32], PrepareShared& m,
                                              const HeadGates& h, const LanePlace& at,
                                              HeadRecord* record) {
  float(&T)[kChunk * kChunk] = m.large_T;
  if (team_thread() == 0) wait_bulk_read<0>();  // T of the head before lies there
  sync_team();
  for_each_decay(h, at, 0, [&](int e, int i, int j, float decay) {
    T[i * kChunk + j] = kk[e] * (decay * m.k_norm[j]) * (h.T_power * m.k_norm[i]) * h.beta[i];
  });
  sync_team();
  const int thread = team_thread();
  const int column = thread % kChunk;
#pragma unroll 1
  for (int i = 0; i < kChunk; ++i) {
    float x = i == column ? h.beta[i] : 0.0f;
#pragma unroll 1
    for (int k = column; k < i; ++k) {
      x = __fmaf_rn(-T[i * kChunk + k], T[k * kChunk + column], x);
    }
    sync_team();
    if (thread < kChunk) T[i * kChunk + column] = x;
    sync_team();
  }
  constexpr int kElements = kChunk * kChunk;
  uint32_t largest = 0;
#pragma unroll 1
  for (int i = thread; i < kElements; i += kTeamThreads) {
    largest = max(largest, __float_as_uint(T[i]) & 0x7fffffffu);
  }
  const float power = power_of_two(__uint_as_float(team_largest(m, largest)));
  const float inverse = inverse_power(power);
#pragma unroll 1
  for (int i = thread; i < kElements; i += kTeamThreads) {
    const SplitPair x = split(T[i] * inverse, 0);
    const int row = i / kChunk;
    if (column / kTile > row / kTile) continue;
    const int byte = element_offset(row, column);
    *reinterpret_cast<uint16_t*>(record->T_high + byte) = static_cast<uint16_t>(x.high);
    *reinterpret_cast<uint16_t*>(record->T_low + byte) = static_cast<uint16_t>(x.low);
  }
  return power;
}

}  // namespace gdn::cuda::sm90
