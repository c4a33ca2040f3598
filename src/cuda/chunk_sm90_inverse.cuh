// The exact inverse of the chunk operator on Hopper: T = (I + diag(b) B)^-1 diag(b), with B
// strictly lower of 64 x 64, in blocks of 16. A block of T is the sum of two float16 matrices,
// which has 22 bits of its largest element; products of such sums take three float16 products,
// summed in float32.
//
// With T in place of the inverse itself the blocks below the diagonal need no b of their own:
//   T_wc = -T_ww X,  X = sum over c <= m < w of B_wm T_mc
// A warp computes a block column of T, transposed: then the accumulators of a product are, split
// and packed, the left operand of the next, and a block of B or T_ww is the right operand as its
// elements lie in the accumulators of B's own product.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/chunk_sm90_record.h"
#include "cuda/element.cuh"
#include "cuda/hopper.cuh"
#include "cuda/mma.cuh"

namespace gdn::cuda::sm90 {

constexpr int kTile = HeadRecord::kTile;    // rows and columns of a block
constexpr int kTiles = HeadRecord::kTiles;  // and the warps

// Two numbers, each the sum of two of float16.
struct SplitPair {
  uint32_t high, low;
};
__device__ __forceinline__ SplitPair split(float a, float b) {
  const __half2 high = __floats2half2_rn(a, b);
  const __half2 low = __floats2half2_rn(a - __low2float(high), b - __high2float(high));
  return {*reinterpret_cast<const uint32_t*>(&high), *reinterpret_cast<const uint32_t*>(&low)};
}

// A block as the lanes of a warp have it: of its four 8 x 8 parts ((rows 0-7, columns 0-7), (rows
// 8-15, columns 0-7), and to the right of these the other two) row lane/4, columns 2 (lane % 4) and
// the next.
struct SplitTile {
  uint32_t high[4], low[4];
  __device__ __forceinline__ void set(int part, SplitPair x) {
    high[part] = x.high;
    low[part] = x.low;
  }
};

// Blocks of B below the diagonal, on their way from the warp that has its rows to those that need
// it: the lanes' registers.
struct alignas(16) TilePlace {
  uint4 high[kWarp], low[kWarp];

  __device__ __forceinline__ void store(const SplitTile& x, int lane) {
    high[lane] = {x.high[0], x.high[1], x.high[2], x.high[3]};
    low[lane] = {x.low[0], x.low[1], x.low[2], x.low[3]};
  }
  __device__ __forceinline__ SplitTile load(int lane) const {
    const uint4 h = high[lane], l = low[lane];
    return {{h.x, h.y, h.z, h.w}, {l.x, l.y, l.z, l.w}};
  }
};
constexpr int kPlaces = kTiles * (kTiles - 1) / 2;
GDN_HOST_DEVICE constexpr int place_of(int row_tile, int column_tile) {
  return row_tile * (row_tile - 1) / 2 + column_tile;
}

// c += a b^T, where a is a left operand and b as a SplitTile has it: b's rows are c's columns.
__device__ __forceinline__ void multiply_add(float (&c)[2][4], const SplitTile& a,
                                             const SplitTile& b) {
  MatrixA high{{a.high[0], a.high[1], a.high[2], a.high[3]}};
  MatrixA low{{a.low[0], a.low[1], a.low[2], a.low[3]}};
#pragma unroll
  for (int n = 0; n < 2; ++n) cuda::multiply_add(c[n], low, b.high[n], b.high[2 + n]);
#pragma unroll
  for (int n = 0; n < 2; ++n) cuda::multiply_add(c[n], high, b.low[n], b.low[2 + n]);
#pragma unroll
  for (int n = 0; n < 2; ++n) cuda::multiply_add(c[n], high, b.high[n], b.high[2 + n]);
}
// An accumulator, times a sign, as the left operand of a product contracted over its columns.
__device__ __forceinline__ SplitTile split(const float (&c)[2][4], float sign) {
  SplitTile x;
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    const float* from = c[part / 2] + part % 2 * 2;
    x.set(part, split(sign * from[0], sign * from[1]));
  }
  return x;
}

// Whether a packed number came out infinite or NaN; costs an instruction a pair.
struct FiniteCheck {
  __half2 sum = __floats2half2_rn(0, 0);
  __device__ __forceinline__ void add(uint32_t halves) {
    sum = __hfma2(*reinterpret_cast<const __half2*>(&halves), __floats2half2_rn(0, 0), sum);
  }
  __device__ __forceinline__ void add(const SplitTile& x) {
#pragma unroll
    for (const uint32_t part : x.high) add(part);
  }
  // In any lane.
  __device__ __forceinline__ bool failed() const {
    return __any_sync(kAllLanes, (*reinterpret_cast<const uint32_t*>(&sum) & 0x7fff7fffu) != 0);
  }
};

// What a warp inverts its diagonal block in: the two 8 x 8 blocks on the diagonal of diag(b) B,
// then those of T, transposed. Parts and rows are spaced for conflict-free access.
struct alignas(16) DiagonalPlace {
  static constexpr int kPart = 8 * 8 + 4, kInversePart = 8 * 12;
  float x[2 * kInversePart];
  __device__ __forceinline__ float* system(int part, int row, int column) {
    return x + part * kPart + row * 8 + column;
  }
  __device__ __forceinline__ float* inverse(int part, int column, int row) {
    return x + part * kInversePart + column * 12 + row;
  }
};

// The diagonal block of T, transposed, as a left operand. `place` holds the system, written by the
// warp; beta: of the block's rows; below: the lower left 8 x 8 part of B.
__device__ __forceinline__ SplitTile invert_diagonal(DiagonalPlace& place, const float* beta,
                                                     SplitPair below, int lane) {
  const int part = lane / 8 % 2, column = lane % 8;  // lanes 16-31 repeat
  __syncwarp();
  const float b = beta[part * 8 + column];
  float t[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    t[i] = i == column ? b : 0.0f;
#pragma unroll
    for (int m = 0; m < i; m += 4) {
      const float4 a = *reinterpret_cast<const float4*>(place.system(part, i, m));
      t[i] = __fmaf_rn(-a.x, t[m], t[i]);
      if (m + 1 < i) t[i] = __fmaf_rn(-a.y, t[m + 1], t[i]);
      if (m + 2 < i) t[i] = __fmaf_rn(-a.z, t[m + 2], t[i]);
      if (m + 3 < i) t[i] = __fmaf_rn(-a.w, t[m + 3], t[i]);
    }
  }
  __syncwarp();
  if (lane < 16) {
    *reinterpret_cast<float4*>(place.inverse(part, column, 0)) = {t[0], t[1], t[2], t[3]};
    *reinterpret_cast<float4*>(place.inverse(part, column, 4)) = {t[4], t[5], t[6], t[7]};
  }
  __syncwarp();
  const auto load = [&](int which) {
    const float2 x = *reinterpret_cast<const float2*>(place.inverse(which, lane / 4, lane % 4 * 2));
    return split(x.x, x.y);
  };
  const SplitPair first = load(0), second = load(1);

  // The part below: both terms of the left operand are rows of it, those of the right operand
  // follow one another in the contraction.
  const auto product = [](SplitPair a, SplitPair b_pair) {
    float c[4] = {};
    cuda::multiply_add(c, MatrixA{{a.high, a.low, a.high, a.low}}, b_pair.high, b_pair.low);
    return float2{__fadd_rn(c[0], c[2]), __fadd_rn(c[1], c[3])};
  };
  const float2 x = product(first, below);
  const SplitPair second_rows{transpose_matrix(second.high), transpose_matrix(second.low)};
  const float2 y = product(split(x.x, x.y), second_rows);
  const SplitPair corner = split(-y.x, -y.y);
  return {{first.high, 0, corner.high, second.high}, {first.low, 0, corner.low, second.low}};
}

// A block of T, transposed, to its place in the record.
__device__ __forceinline__ void store_transposed(const SplitTile& x, uint32_t T_high,
                                                 uint32_t T_low, int row_tile, int column_tile,
                                                 int lane) {
  const uint32_t at = HeadRecord::tile_offset(row_tile, column_tile) +
                      HeadRecord::in_tile(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8);
  store_matrices_transposed(T_high + at, x.high[0], x.high[1], x.high[2], x.high[3]);
  store_matrices_transposed(T_low + at, x.low[0], x.low[1], x.low[2], x.low[3]);
}

__device__ __forceinline__ SplitTile load_transposed(uint32_t T_high, uint32_t T_low, int row_tile,
                                                     int column_tile, int lane) {
  const uint32_t at = HeadRecord::tile_offset(row_tile, column_tile) +
                      HeadRecord::in_tile(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8);
  SplitTile x;
  load_matrices_transposed(T_high + at, x.high);
  load_matrices_transposed(T_low + at, x.low);
  return x;
}

// The blocks of a column below the diagonal, which is given as invert_diagonal made it; those of
// the other columns are in the record. Stores them there. A shorter column is the end of a longer
// one's code.
__device__ __forceinline__ void solve_column(int column, const SplitTile& diagonal,
                                             const TilePlace* B, uint32_t T_high, uint32_t T_low,
                                             FiniteCheck* check, int lane) {
  const int in_tile = HeadRecord::in_tile(lane / 8 % 2 * 8 + lane % 8, lane / 16 * 8);
  float x[kTiles][2][4] = {};
  SplitTile last = diagonal;
#pragma unroll
  for (int w = 1; w < kTiles; ++w) {
    if (w <= column) continue;
#pragma unroll
    for (int below = w; below < kTiles; ++below) {
      multiply_add(x[below], last, B[place_of(below, w - 1)].load(lane));
    }
    SplitTile own;  // T_ww
    const uint32_t at = HeadRecord::tile_offset(w, w) + in_tile;
    load_matrices(T_high + at, own.high);
    load_matrices(T_low + at, own.low);
    float y[2][4] = {};
    multiply_add(y, split(x[w], 1.0f), own);
    last = split(y, -1.0f);
    check->add(last);
    store_transposed(last, T_high, T_low, w, column, lane);
  }
}

}  // namespace gdn::cuda::sm90
