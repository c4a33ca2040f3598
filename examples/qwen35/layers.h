// What a layer is made of. Every function takes the hidden states x [tokens,hidden_size] of
// consecutive tokens of one sequence and returns as many.
//
//   x <- x + mixer(rms_norm(x))     mixer: linear_attention or full_attention
//   x <- x + mlp(rms_norm(x))
#pragma once

#include <cmath>
#include <cstdint>
#include <variant>
#include <vector>

#include "blas.h"
#include "config.h"
#include "gdn/context.h"
#include "weights.h"

namespace qwen35 {

// Which tokens: those from `position` on of the sequence that lives in `slot`.
struct Step {
  int32_t slot = 0;
  int64_t position = 0;
  int64_t tokens = 0;
};

// What a linear-attention layer remembers of each sequence: its size does not grow.
struct LinearAttentionPool {
  int64_t slots = 0;
  Values conv;   // [slots, 2 H K + HV V, conv_width - 1]: the last inputs of the convolution
  Values delta;  // [slots,HV,V,K]: the state of the delta rule

  LinearAttentionPool(const Config& config, int64_t slot_count);
};

// What a full-attention layer remembers: keys and values of all tokens.
struct FullAttentionCache {
  struct Sequence {
    Values keys, values;  // [tokens,kv_heads,head_dim]
  };
  std::vector<Sequence> slots;
};

Values linear_attention(gdn::Context& context, const Config& config,
                        const LinearAttentionWeights& weights, const Step& step, const Values& x,
                        LinearAttentionPool* pool);

Values full_attention(gdn::Context& context, const Config& config,
                      const FullAttentionWeights& weights, const Step& step, const Values& x,
                      FullAttentionCache* cache);

Values mlp(gdn::Context& context, const LayerWeights& weights, const Values& x);

// y = x / sqrt(mean x^2 + eps) * (1 + weight): Qwen stores these weights with 1 taken off (but not
// that of rms_norm_gated).
void rms_norm_row(const float* x, const Values& weight, double eps, float* y);
Values rms_norm(const Values& x, const Values& weight, double eps);

inline float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }
inline float silu(float x) { return x * sigmoid(x); }

}  // namespace qwen35
