// The weights of a Qwen3.5 text model in float32, from safetensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config.h"

namespace qwen35 {

// y = x W^T + bias. Projections that read the same x lie stacked in one matrix.
struct Linear {
  int64_t out = 0, in = 0;
  std::vector<float> weight;  // [out,in]
  std::vector<float> bias;    // [out], or empty
};

struct LinearAttentionWeights {
  Linear in;                          // rows of q, k and v, then z, b, a
  std::vector<float> conv;            // [2 H K + HV V, conv_width], over q, k and v
  std::vector<float> A_log, dt_bias;  // [HV]
  std::vector<float> norm;            // [V]
  Linear out;
};

struct FullAttentionWeights {
  Linear in;                          // rows of q and gate, head by head; then k, v
  std::vector<float> q_norm, k_norm;  // [head_dim]
  Linear out;
};

struct LayerWeights {
  std::vector<float> mixer_norm;  // [hidden_size]
  std::variant<LinearAttentionWeights, FullAttentionWeights> mixer;
  std::vector<float> mlp_norm;  // [hidden_size]
  Linear mlp_in;                // rows of gate, then up
  Linear mlp_out;
};

struct Weights {
  Linear embedding;  // [vocab_size,hidden_size], a row for each token
  std::vector<LayerWeights> layers;
  std::vector<float> norm;         // [hidden_size]
  std::optional<Linear> own_head;  // not with tied embeddings

  const Linear& head() const { return own_head ? *own_head : embedding; }
};

// Reads model.safetensors, or the files that model.safetensors.index.json names, of a checkpoint's
// folder. Throws std::runtime_error where a tensor is missing or has another shape than the config
// says.
Weights read_weights(const std::string& folder, const Config& config);

}  // namespace qwen35
