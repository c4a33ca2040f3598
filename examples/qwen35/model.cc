#include "model.h"

#include <algorithm>
#include <stdexcept>

namespace qwen35 {

Model::Model(const std::string& folder, int threads, int32_t slots)
    : config_(read_config(folder)),
      weights_(read_weights(folder, config_)),
      executor_(gdn::make_thread_executor(threads)),
      lengths_(static_cast<size_t>(slots)) {
  context_.executor = executor_.get();
  keep_blas_on_one_thread();
  for (const Mixer mixer : config_.layers) {
    if (mixer == Mixer::kLinearAttention) {
      states_.push_back(LinearAttentionPool(config_, slots));
    } else {
      states_.push_back(FullAttentionCache{std::vector<FullAttentionCache::Sequence>(slots)});
    }
  }
}

Values Model::forward(std::span<const int64_t> tokens, Logits which, int32_t slot) {
  for (const int64_t token : tokens) {
    if (token < 0 || token >= config_.vocab_size) {
      throw std::runtime_error("token " + std::to_string(token) + ", expected 0 to " +
                               std::to_string(config_.vocab_size - 1));
    }
  }
  // A long prompt goes in pieces, so that activations take little memory. Cuts at multiples of 64
  // tokens do not change a bit of what chunk() computes.
  constexpr size_t kPiece = 512;
  Values logits;
  while (!tokens.empty()) {
    const auto piece = tokens.first(std::min(tokens.size(), kPiece));
    tokens = tokens.subspan(piece.size());
    const Step step{slot, lengths_[slot], static_cast<int64_t>(piece.size())};
    Values x = forward_piece(piece, step);
    lengths_[slot] += step.tokens;
    if (which == Logits::kLast) {
      if (!tokens.empty()) continue;
      x.erase(x.begin(), x.end() - config_.hidden_size);
    }
    const Values normed = rms_norm(x, weights_.norm, config_.norm_eps);
    const Values more = apply(context_, weights_.head(), normed);
    logits.insert(logits.end(), more.begin(), more.end());
  }
  return logits;
}

Values Model::forward_piece(std::span<const int64_t> tokens, const Step& step) {
  Values x;  // [tokens,hidden_size]
  for (const int64_t token : tokens) {
    const float* row = &weights_.embedding.weight[token * config_.hidden_size];
    x.insert(x.end(), row, row + config_.hidden_size);
  }
  const auto add = [&x](const Values& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  };
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    const LayerWeights& layer = weights_.layers[i];
    const Values normed = rms_norm(x, layer.mixer_norm, config_.norm_eps);
    if (const auto* linear = std::get_if<LinearAttentionWeights>(&layer.mixer)) {
      auto& pool = std::get<LinearAttentionPool>(states_[i]);
      add(linear_attention(context_, config_, *linear, step, normed, &pool));
    } else {
      const auto& full = std::get<FullAttentionWeights>(layer.mixer);
      auto& cache = std::get<FullAttentionCache>(states_[i]);
      add(full_attention(context_, config_, full, step, normed, &cache));
    }
    add(mlp(context_, layer, rms_norm(x, layer.mlp_norm, config_.norm_eps)));
  }
  return x;
}

}  // namespace qwen35
