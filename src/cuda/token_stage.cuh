// Some tokens of a sequence and value head in shared memory, normalised, in float32, with their
// gates: all warps of a block read them there. A warp stages a row, so that its sums are over lanes
// in one order, whatever the block.
#pragma once

#include <cstdint>

#include "cuda/element.cuh"
#include "cuda/gates.cuh"
#include "problem.h"

namespace gdn::cuda {

constexpr int kStagedTokens = 4;
constexpr int kMostDim = 256;

// V columns of a block.
struct Columns {
  int begin, end;
};

// kK: K rounded up to what the lanes of a tile have. kPlain: it is K, and rows of K are of 16-bit
// elements that begin at a multiple of four. kColumns: of V, of a block, at most.
template <int kK, bool kPlain = false, int kColumns = 64>
struct TokenStage {
  static constexpr int kPerLane = kK == 256 ? 8 : 4;

  alignas(16) float k[kStagedTokens][kK], q[kStagedTokens][kK];
  alignas(16) float v[kStagedTokens][kMostDim];
  float decay[kStagedTokens], beta[kStagedTokens];

  static constexpr int kFours = kPerLane / 4;
  static constexpr int kValues = kColumns / kWarp;  // of v for a lane
  struct RawRow {
    FourElements four[kFours];
  };
  // An item, or a record, on its way.
  struct Raw {
    RawRow row;
    uint32_t v[kValues];
    GateBits gate;
  };

  // The lane's elements of a row, zero past K.
  static __device__ __forceinline__ void begin_row(const std::byte* row, DType dtype, int K,
                                                   RawRow& raw) {
    const int at = static_cast<int>(threadIdx.x) % kWarp * kPerLane;
    if constexpr (kPlain) {
      static_assert(kFours == 1);
      raw.four[0] = FourElements{};
      if (at < kK) {
        const auto* two = reinterpret_cast<const uint2*>(row + 2 * at);
        raw.four[0].bits = {two->x, two->y, 0, 0};
      }
    } else {
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        raw.four[i] = load_four(row, dtype, at + 4 * i, K - at - 4 * i);
      }
    }
  }
  static __device__ __forceinline__ void finish_row(const RawRow& raw, DType dtype,
                                                    float (&x)[kPerLane]) {
    if (kPlain) dtype = dtype == DType::kBF16 ? DType::kBF16 : DType::kF16;
#pragma unroll
    for (int i = 0; i < kFours; ++i) to_floats(raw.four[i], dtype, x + 4 * i);
  }
  static __device__ __forceinline__ float dot(const float (&x)[kPerLane],
                                              const float (&y)[kPerLane]) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) total = __fmaf_rn(x[i], y[i], total);
    return sum_over_lanes<1, 16>(total);
  }
  // Of two staged rows, over the lanes of a warp.
  static __device__ __forceinline__ float dot_rows(const float* a, const float* b) {
    const int at = static_cast<int>(threadIdx.x) % kWarp * kPerLane;
    float x[kPerLane] = {}, y[kPerLane] = {};
    if (at < kK) {
#pragma unroll
      for (int i = 0; i < kPerLane; i += 4) {
        const float4 u = *reinterpret_cast<const float4*>(a + at + i);
        const float4 w = *reinterpret_cast<const float4*>(b + at + i);
        x[i] = u.x, x[i + 1] = u.y, x[i + 2] = u.z, x[i + 3] = u.w;
        y[i] = w.x, y[i + 1] = w.y, y[i + 2] = w.z, y[i + 3] = w.w;
      }
    }
    return dot(x, y);
  }
  static __device__ __forceinline__ void l2norm(float (&x)[kPerLane], float eps) {
    const float factor = norm_factor(dot(x, x), eps);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] = __fmul_rn(x[i], factor);
  }
  static __device__ __forceinline__ void put_row(float* row, const float (&x)[kPerLane]) {
    const int at = static_cast<int>(threadIdx.x) % kWarp * kPerLane;
    if (at >= kK) return;
#pragma unroll
    for (int i = 0; i < kPerLane; i += 4) {
      *reinterpret_cast<float4*>(row + at + i) = {x[i], x[i + 1], x[i + 2], x[i + 3]};
    }
  }
  static __device__ __forceinline__ void begin_values(const std::byte* row, DType dtype,
                                                      const Columns& columns,
                                                      uint32_t (&bits)[kValues]) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int at = columns.begin + static_cast<int>(threadIdx.x) % kWarp + i * kWarp;
      bits[i] = at < columns.end ? load_bits(row, dtype, at) : 0;
    }
  }
  __device__ __forceinline__ void put_values(int i, const uint32_t (&bits)[kValues], DType dtype,
                                             const Columns& columns) {
#pragma unroll
    for (int j = 0; j < kValues; ++j) {
      const int at = columns.begin + static_cast<int>(threadIdx.x) % kWarp + j * kWarp;
      if (at < columns.end) v[i][at] = from_bits(bits[j], dtype);
    }
  }

  // Staging is cut into items, a warp an item: k, q, and v with the gates, of every token. A warp
  // has the items of its own number, and so on by the warps of the block.
  static constexpr int kItems = 3;
  static __device__ __forceinline__ int own() { return static_cast<int>(threadIdx.x) / kWarp; }
  static __device__ __forceinline__ int warps() { return static_cast<int>(blockDim.x) / kWarp; }

  // Begins the loads of an item of tokens t0 ... Problem is DeltaRuleProblem or ReplayProblem.
  template <class Problem>
  static __device__ __forceinline__ void begin(const Problem& p, const Sequence& s, int64_t t0,
                                               int item, int64_t head, int64_t qk_head,
                                               const Columns& columns, Raw& raw) {
    const int64_t t = t0 + item / kItems;
    const int part = item % kItems;
    if (part < 2) {
      const TokenTensor& x = part == 0 ? p.k : p.q;
      begin_row(x.at(s, t, qk_head), x.dtype, static_cast<int>(p.shape.K), raw.row);
    } else {
      begin_values(p.v.at(s, t, head), p.v.dtype, columns, raw.v);
      raw.gate = load_gate_bits(p.gates, s, t, head);
    }
  }
  template <class Problem>
  __device__ __forceinline__ void finish(const Problem& p, const Raw& raw, int item,
                                         const Columns& columns) {
    const int i = item / kItems, part = item % kItems;
    if (part < 2) {
      float row[kPerLane];
      finish_row(raw.row, p.k.dtype, row);
      if (p.use_qk_l2norm) l2norm(row, p.l2norm_eps);
      put_row(part == 0 ? k[i] : q[i], row);
      return;
    }
    put_values(i, raw.v, p.v.dtype, columns);
    const Gate gate = gate_of(p.gates, raw.gate);
    if (threadIdx.x % kWarp == 0) {
      decay[i] = decay_of(gate.g);
      beta[i] = gate.beta;
    }
  }
  // The first items of a warp, as many as a token has: all that a block has to stage at the start
  // of a short call, whose loads begin together.
  struct RawItems {
    Raw raw[kItems];
  };
  static __device__ __forceinline__ int item_of(int j) { return own() + j * warps(); }
  template <class Problem>
  static __device__ __forceinline__ void begin_first(const Problem& p, const Sequence& s, int count,
                                                     int64_t head, int64_t qk_head,
                                                     const Columns& columns, RawItems& items) {
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      if (item_of(j) < count * kItems)
        begin(p, s, 0, item_of(j), head, qk_head, columns, items.raw[j]);
    }
  }
  template <class Problem>
  __device__ __forceinline__ void finish_first(const Problem& p, const Sequence& s, int count,
                                               int64_t head, int64_t qk_head,
                                               const Columns& columns, const RawItems& items) {
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      if (item_of(j) < count * kItems) finish(p, items.raw[j], item_of(j), columns);
    }
    fill(p, s, 0, item_of(kItems), count, head, qk_head, columns);
  }
  // Items from `first` on of `count` tokens.
  template <class Problem>
  __device__ __forceinline__ void fill(const Problem& p, const Sequence& s, int64_t t0, int first,
                                       int count, int64_t head, int64_t qk_head,
                                       const Columns& columns) {
    for (int item = first; item < count * kItems; item += warps()) {
      Raw raw;
      begin(p, s, t0, item, head, qk_head, columns, raw);
      finish(p, raw, item, columns);
    }
  }
};

}  // namespace gdn::cuda
