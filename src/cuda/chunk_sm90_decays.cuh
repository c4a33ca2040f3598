// The preparation of the chunk operator on Hopper, of a value head: sums of g, the factors that its
// decays are products of, and beta.
#pragma once

#include <cfloat>

#include "cuda/chunk_sm90_team.cuh"
#include "cuda/element.cuh"
#include "cuda/gates.cuh"
#include "cuda/mma.cuh"
#include "problem.h"

namespace gdn::cuda::sm90 {

// At most the largest float, so that a product with zero is zero; NaN passes.
__device__ __forceinline__ float exp2_finite(float x) {
  const float e = exp2_quick(x);
  return e > FLT_MAX ? FLT_MAX : e;
}

// --- Gates. A warp has g of a value head and the same or another one beta, a lane tokens 2 lane
// and 2 lane + 1.

// Requested; nothing waits for them before they are looked at.
struct LaneGates {
  GateBits bits[2] = {};
  int count;  // of the two that exist

  // rows: of the chunk that exist.
  __device__ __forceinline__ LaneGates(int rows, int lane) : count(rows - 2 * lane) {}
  __device__ __forceinline__ bool valid(int e) const { return e < count; }
  __device__ __forceinline__ GateBits at(int e) const {
    const GateBits &a = bits[0], &b = bits[1];
    return {e == 0 ? a.decay : b.decay, a.A_log, a.dt_bias, e == 0 ? a.strength : b.strength};
  }
  __device__ __forceinline__ void load_decay(const GateInputs& gates, const Sequence& s, int64_t t0,
                                             int64_t head, int lane) {
    const TokenTensor& input = decay_input(gates);
    const std::byte* at = input.at(s, t0 + 2 * lane, head);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (valid(e)) bits[e] = load_decay_bits(gates, at, head);
      at += input.token_stride * size_of(input.dtype);
    }
  }
  __device__ __forceinline__ void load_strength(const GateInputs& gates, const Sequence& s,
                                                int64_t t0, int64_t head, int lane) {
    const TokenTensor& input = strength_input(gates);
    const std::byte* at = input.at(s, t0 + 2 * lane, head);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (valid(e)) bits[e].strength = load_strength_bits(gates, at);
      at += input.token_stride * size_of(input.dtype);
    }
  }
};

// HeadGates::rise.
__device__ __forceinline__ float steep_rise(const float (&g)[2], const double (&G)[2], int lane) {
  constexpr float kSteep = 4;       // exp(4) times anything usual is float16
  constexpr double kHighest = 126;  // a power of two
  float sum = fmaxf(g[0], 0.0f) + fmaxf(g[1], 0.0f);
#pragma unroll
  for (int bit = 1; bit < kWarp; bit *= 2) sum += __shfl_xor_sync(kAllLanes, sum, bit);
  if (sum < kSteep) return 0;
  double least = fmin(G[0], G[1]);  // of all up to here
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double before = __shfl_up_sync(kAllLanes, least, distance);
    if (lane >= distance) least = fmin(least, before);
  }
  auto rise = static_cast<float>(ceil(fmin(fmax(G[0], G[1]) - least, kHighest)));
#pragma unroll
  for (int bit = 1; bit < kWarp; bit *= 2) {
    rise = fmaxf(rise, __shfl_xor_sync(kAllLanes, rise, bit));
  }
  return fmaxf(rise, 1.0f);
}

// Sums of g.
__device__ __forceinline__ void fill_decays(HeadGates& h, const GateInputs& gates,
                                            const LaneGates& loaded, int lane) {
  constexpr double kLog2E = 1.4426950408889634;
  float g[2];
#pragma unroll 1
  for (int e = 0; e < 2; ++e) {
    float x = loaded.valid(e) ? g_of(gates, loaded.at(e)) : 0.0f;
    if (x < kLeastDecay) x = kLeastDecay;
    (e == 0 ? g[0] : g[1]) = x;
  }
  double sum = static_cast<double>(g[0]) + static_cast<double>(g[1]);
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double before = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += before;
  }
  const double total = __shfl_sync(kAllLanes, sum, kWarp - 1);
  double before = __shfl_up_sync(kAllLanes, sum, 1);
  if (lane == 0) before = 0;
  const double G[2] = {(before + static_cast<double>(g[0])) * kLog2E, sum * kLog2E};

  float rise = 0;
  if (__builtin_expect(__any_sync(kAllLanes, g[0] > 0 || g[1] > 0), 0))
    rise = steep_rise(g, G, lane);

  float high[2], low[2];
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    high[e] = static_cast<float>(G[e]);
    low[e] = static_cast<float>(G[e] - static_cast<double>(high[e]));
  }
  reinterpret_cast<float4*>(h.G)[lane] = {high[0], low[0], high[1], low[1]};

  if (lane == 0) {
    h.sum = static_cast<float>(total);
    h.rise = rise;
  }
}

// beta, scaled up where all are faint; NaN and infinity count as large.
__device__ __forceinline__ void fill_strengths(HeadGates& h, const GateInputs& gates,
                                               const LaneGates& loaded, int lane) {
  constexpr float kFaint = 1.0f / 1024;  // a beta below loses digits in float16
  float beta[2];
#pragma unroll 1
  for (int e = 0; e < 2; ++e) {
    (e == 0 ? beta[0] : beta[1]) = loaded.valid(e) ? beta_of(gates, loaded.at(e).strength) : 0.0f;
  }
  const uint32_t largest = __reduce_max_sync(
      kAllLanes,
      max(__float_as_uint(beta[0]) & 0x7fffffffu, __float_as_uint(beta[1]) & 0x7fffffffu));
  const float power =
      largest < __float_as_uint(kFaint) ? power_of_two(__uint_as_float(largest)) : 1.0f;
  const float inverse = inverse_power(power);
  reinterpret_cast<float2*>(h.beta)[lane] = {beta[0] * inverse, beta[1] * inverse};
  if (lane == 0) h.T_power = power;
}

// exp(G_i - G_j) from sums of two floats.
__device__ __forceinline__ float decay_exponent(float2 Gi, float Gj_high, float Gj_low) {
  return __fadd_rn(__fsub_rn(Gi.x, Gj_high), __fsub_rn(Gi.y, Gj_low));
}

// HeadGates::factors of the rows of warp w, by that warp.
__device__ __forceinline__ void fill_factors(HeadGates& h, int w, int lane) {
  const float2 first = h.G[w * kTile];
#pragma unroll
  for (int part = 0; part < kChunk / kWarp; ++part) {
    const int j = part * kWarp + lane;
    if (j >= (w + 1) * kTile) break;
    const float2 G = h.G[j];
    const float d = decay_exponent(first, G.x, G.y);
    h.factors[8 * w * (w + 1) + j] = exp2_finite(j < w * kTile ? d : -d);
  }
}

}  // namespace gdn::cuda::sm90
