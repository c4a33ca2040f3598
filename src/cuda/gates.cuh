// Log-decay g and write strength beta on the device: their one formula, for the gating operator and
// for the kernels that gate inside.
#pragma once

#include <cfloat>
#include <cstdint>

#include "cuda/element.cuh"
#include "problem.h"

namespace gdn::cuda {

// -exp_A softplus(a + dt_bias). The rounding errors of the sum and of its product with softplus
// beta are carried along: they would be relative errors of g where softplus(x) is nearly exp(x).
__device__ inline float log_decay(float a, float dt_bias, float exp_A, float beta,
                                  float threshold) {
  const float sum = __fadd_rn(a, dt_bias);
  const float bias_part = __fsub_rn(sum, a);
  const float sum_error =
      __fadd_rn(__fsub_rn(a, __fsub_rn(sum, bias_part)), __fsub_rn(dt_bias, bias_part));
  const float x = __fmul_rn(sum, beta);
  float error = __fmaf_rn(sum_error, beta, __fmaf_rn(sum, beta, -x));
  if (!(fabsf(x) < 1e4f)) error = 0;  // no inf - inf

  // softplus(x) = max(x, 0) + log1p(exp(-|x|)), the exponential corrected to first order.
  const float u = expf(-fabsf(x));
  const float log_part = log1pf(__fmaf_rn(u, x < 0 ? error : -error, u));
  const float smooth = (fmaxf(x, 0.0f) + log_part) / beta;
  const bool linear = __fadd_rn(__fsub_rn(x, threshold), error) > 0;
  return -__fmul_rn(exp_A, linear ? sum : smooth);
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float exp2_quick(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// x sigmoid(x), to be rounded to Y. The quick exponential is off by |x| 2^-23.7 of itself, which 16
// bits do not show. The quick divisions give 0 where the divisor passes 2^126: x below -87.
template <class Y>
__device__ inline float silu_to(float x) {
  if constexpr (sizeof(Y) == 2) {
    constexpr float kLog2e = 1.4426950408889634f;
    float reciprocal;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1.0f + exp2_quick(x * -kLog2e)));
    return x * reciprocal;
  } else {
    return __fdividef(x, 1.0f + expf(-x));
  }
}

// exp(x), at most the largest float, so that a product with zero is zero; NaN passes.
__device__ inline float exp_finite(float x) {
  const float e = expf(x);
  return e > FLT_MAX ? FLT_MAX : e;
}

// exp(g) of one token, nearly as well rounded as a float can be where g is small: the state is
// multiplied by it token after token, and a constant error of one last place would add up.
__device__ inline float decay_of(float g) {
  return fabsf(g) < 0.5f ? __fadd_rn(1.0f, expm1f(g)) : expf(g);
}

struct Gate {
  float g, beta;
};

// The tensors that every call of a token's gates reads an element of, where they are given.
__host__ __device__ inline const TokenTensor& decay_input(const GateInputs& gates) {
  return gates.g.given() ? gates.g : gates.a;
}
__host__ __device__ inline const TokenTensor& strength_input(const GateInputs& gates) {
  return gates.beta.given() ? gates.beta : gates.b;
}

// What the gates of a token and value head are computed from, as bits.
struct GateBits {
  uint32_t decay, A_log, dt_bias;  // g, or a with the other two
  uint32_t strength;               // beta or b
};
// Of the element of decay_input; no strength.
__device__ __forceinline__ GateBits load_decay_bits(const GateInputs& gates, const std::byte* decay,
                                                    int64_t head) {
  GateBits bits{};
  bits.decay = load_bits(decay, decay_input(gates).dtype);
  if (!gates.g.given()) {
    bits.A_log = load_bits(gates.A_log.at(head), gates.A_log.dtype);
    if (gates.dt_bias.given()) {
      bits.dt_bias = load_bits(gates.dt_bias.at(head), gates.dt_bias.dtype);
    }
  }
  return bits;
}
// Of the element of strength_input, if that is given.
__device__ __forceinline__ uint32_t load_strength_bits(const GateInputs& gates,
                                                       const std::byte* strength) {
  const TokenTensor& input = strength_input(gates);
  return input.given() ? load_bits(strength, input.dtype) : 0;
}
__device__ __forceinline__ GateBits load_gate_bits(const GateInputs& gates, const std::byte* decay,
                                                   const std::byte* strength, int64_t head) {
  GateBits bits = load_decay_bits(gates, decay, head);
  bits.strength = load_strength_bits(gates, strength);
  return bits;
}
__device__ inline GateBits load_gate_bits(const GateInputs& gates, const Sequence& s, int64_t t,
                                          int64_t head) {
  const TokenTensor& strength = strength_input(gates);
  return load_gate_bits(gates, decay_input(gates).at(s, t, head),
                        strength.given() ? strength.at(s, t, head) : nullptr, head);
}
// Given or computed; g as it is, however low.
__device__ inline float g_of(const GateInputs& gates, const GateBits& bits) {
  if (gates.g.given()) return from_bits(bits.decay, gates.g.dtype);
  const float bias = gates.dt_bias.given() ? from_bits(bits.dt_bias, gates.dt_bias.dtype) : 0.0f;
  return log_decay(from_bits(bits.decay, gates.a.dtype), bias,
                   expf(from_bits(bits.A_log, gates.A_log.dtype)), gates.softplus_beta,
                   gates.softplus_threshold);
}
__device__ inline float beta_of(const GateInputs& gates, uint32_t strength) {
  float beta = 1.0f;
  if (gates.beta.given()) {
    beta = from_bits(strength, gates.beta.dtype);
  } else if (gates.b.given()) {
    beta = sigmoid(from_bits(strength, gates.b.dtype));
  }
  return gates.allow_neg_eigval ? 2 * beta : beta;
}
__device__ inline Gate gate_of(const GateInputs& gates, const GateBits& bits) {
  return {g_of(gates, bits), beta_of(gates, bits.strength)};
}
__device__ inline Gate load_gate(const GateInputs& gates, const Sequence& s, int64_t t,
                                 int64_t head) {
  return gate_of(gates, load_gate_bits(gates, s, t, head));
}

// A g below: its exponential is 0 in float32 either way, but a sum over a chunk that holds -1e4, or
// -infinity, has no digits left for the differences between the tokens after it.
constexpr float kLeastDecay = -150.0f;

}  // namespace gdn::cuda
