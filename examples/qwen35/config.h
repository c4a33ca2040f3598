// What config.json says of a Qwen3.5 text model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qwen35 {

enum class Mixer { kLinearAttention, kFullAttention };

struct Config {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // of the MLP
  double norm_eps = 1e-6;
  bool tied_embeddings = false;  // the embedding is the output matrix, too
  std::vector<Mixer> layers;     // what mixes the tokens in each layer
  std::vector<int64_t> end_ids;  // tokens that end a text

  // Full attention: grouped queries, rotary positions on the first rotary_dim of head_dim.
  struct {
    int64_t heads = 0, kv_heads = 0, head_dim = 0, rotary_dim = 0;
    double rope_theta = 0;
    bool bias = false;
  } full;

  // Linear attention: a Gated DeltaNet layer. H, HV, K and V as in gdn/ops.h.
  struct {
    int64_t H = 0, HV = 0, K = 0, V = 0;
    int64_t conv_width = 0;
  } linear;
};

// Reads config.json, and generation_config.json where there is one, of a checkpoint's folder.
// Throws std::runtime_error where they describe no dense Qwen3.5 text model.
Config read_config(const std::string& folder);

}  // namespace qwen35
