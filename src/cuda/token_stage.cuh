// Some tokens of a sequence and value head in shared memory, normalised, in float32, with their
// gates: all warps of a block read them there. A warp stages a token, so that its sums are over
// lanes in one order, whatever the block.
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

// kK: K rounded up to what the lanes of a tile have.
template <int kK>
struct TokenStage {
  static constexpr int kPerLane = kK == 256 ? 8 : 4;

  alignas(16) float k[kStagedTokens][kK], q[kStagedTokens][kK];
  alignas(16) float v[kStagedTokens][kMostDim];
  float kq[kStagedTokens], decay[kStagedTokens], beta[kStagedTokens];

  // The lane's elements of a row, zero past K.
  static __device__ __forceinline__ void load_row(const std::byte* row, DType dtype, int K,
                                                  float (&x)[kPerLane]) {
    const int at = static_cast<int>(threadIdx.x) % kWarp * kPerLane;
    with_element(dtype, [&](auto element) {
      using E = decltype(element);
      constexpr int kBytes = kPerLane * static_cast<int>(sizeof(E));
      const E* p = reinterpret_cast<const E*>(row);
      const bool vectors = K % kPerLane == 0 && is_aligned(p, kBytes < 16 ? kBytes : 16);
      load_run(p + at, K - at, vectors, x);
    });
  }
  static __device__ __forceinline__ float dot(const float (&x)[kPerLane],
                                              const float (&y)[kPerLane]) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) total = __fmaf_rn(x[i], y[i], total);
    return sum_over_lanes<1, 16>(total);
  }
  static __device__ __forceinline__ void l2norm(float (&x)[kPerLane], float eps) {
    const float factor = 1.0f / sqrtf(__fadd_rn(dot(x, x), eps));
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
  __device__ __forceinline__ void put_values(int i, const std::byte* row, DType dtype,
                                             const Columns& columns) {
    for (int at = columns.begin + static_cast<int>(threadIdx.x) % kWarp; at < columns.end;
         at += kWarp) {
      v[i][at] = load_element(row, dtype, at);
    }
  }

  // Calls body(i) for the warp's tokens of `count`.
  template <class Body>
  static __device__ __forceinline__ void for_each_own(int count, const Body& body) {
    for (int i = static_cast<int>(threadIdx.x) / kWarp; i < count;
         i += static_cast<int>(blockDim.x) / kWarp) {
      body(i);
    }
  }

  // Tokens t0 .. t0 + count - 1. Problem is DeltaRuleProblem or ReplayProblem.
  template <class Problem>
  __device__ __forceinline__ void fill(const Problem& p, const Sequence& s, int64_t t0, int count,
                                       int64_t head, const Columns& columns) {
    const int K = static_cast<int>(p.shape.K);
    const int64_t qk_head = head / (p.shape.value_heads / p.shape.heads);
    for_each_own(count, [&](int i) {
      const int64_t t = t0 + i;
      float k_row[kPerLane], q_row[kPerLane];
      load_row(p.k.at(s, t, qk_head), p.k.dtype, K, k_row);
      load_row(p.q.at(s, t, qk_head), p.q.dtype, K, q_row);
      put_values(i, p.v.at(s, t, head), p.v.dtype, columns);
      const Gate gate = load_gate(p.gates, s, t, head);
      if (p.use_qk_l2norm) {
        l2norm(k_row, p.l2norm_eps);
        l2norm(q_row, p.l2norm_eps);
      }
      const float product = dot(k_row, q_row);
      put_row(k[i], k_row);
      put_row(q[i], q_row);
      if (threadIdx.x % kWarp == 0) {
        kq[i] = product;
        decay[i] = decay_of(gate.g);
        beta[i] = gate.beta;
      }
    });
  }
};

}  // namespace gdn::cuda
