// Softmax attention over all tokens so far: grouped queries, normalised q and k, rotary positions,
// and a gate on what was read.
#include <algorithm>

#include "layers.h"

namespace qwen35 {
namespace {

// Turns the pairs (x_i, x_{i + n/2}) of the first n dimensions of a head by the angle position *
// theta^(-2i/n).
class Rotary {
 public:
  explicit Rotary(const Config& config)
      : half_(config.full.rotary_dim / 2), theta_(config.full.rope_theta) {}

  void move_to(int64_t position) {
    cos_.clear();
    sin_.clear();
    for (int64_t i = 0; i < half_; ++i) {
      // The angle is rounded to float32 as in Transformers.
      const double power = static_cast<double>(i) / static_cast<double>(half_);
      const auto frequency = static_cast<float>(1 / std::pow(theta_, power));
      const float angle = static_cast<float>(position) * frequency;
      cos_.push_back(std::cos(angle));
      sin_.push_back(std::sin(angle));
    }
  }

  void turn(float* x) const {
    for (int64_t i = 0; i < half_; ++i) {
      const float first = x[i], second = x[i + half_];
      x[i] = first * cos_[i] - second * sin_[i];
      x[i + half_] = second * cos_[i] + first * sin_[i];
    }
  }

 private:
  int64_t half_;
  double theta_;
  Values cos_, sin_;
};

// The first `count` scores become weights, the others 0.
void softmax(float* scores, int64_t count, int64_t size, float scale) {
  const float largest = *std::max_element(scores, scores + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    scores[i] = std::exp(scale * (scores[i] - largest));
    sum += scores[i];
  }
  const auto norm = static_cast<float>(1 / sum);
  for (int64_t i = 0; i < count; ++i) scores[i] *= norm;
  std::fill(scores + count, scores + size, 0.0f);
}

}  // namespace

Values full_attention(gdn::Context& context, const Config& config,
                      const FullAttentionWeights& weights, const Step& step, const Values& x,
                      FullAttentionCache* cache) {
  const auto& full = config.full;
  const int64_t dim = full.head_dim, q_width = full.heads * dim, kv_width = full.kv_heads * dim;
  const int64_t T = step.tokens, past = step.position, total = past + T;

  // Rows of [q_0 gate_0 q_1 gate_1 .. | k | v].
  Values projected = apply(context, weights.in, x);
  const int64_t row = weights.in.out;

  auto& [keys, values] = cache->slots[step.slot];
  keys.resize(static_cast<size_t>(past * kv_width));  // drops a sequence that was here before
  values.resize(keys.size());
  Rotary rotary(config);
  for (int64_t t = 0; t < T; ++t) {
    rotary.move_to(past + t);
    const auto prepare = [&](float* head, const Values& norm) {
      rms_norm_row(head, norm, config.norm_eps, head);
      rotary.turn(head);
    };
    float* q = &projected[t * row];
    float* k = q + 2 * q_width;
    float* v = k + kv_width;
    for (int64_t h = 0; h < full.heads; ++h) prepare(q + h * 2 * dim, weights.q_norm);
    for (int64_t h = 0; h < full.kv_heads; ++h) prepare(k + h * dim, weights.k_norm);
    keys.insert(keys.end(), k, k + kv_width);
    values.insert(values.end(), v, v + kv_width);
  }

  // A task is a head and a block of consecutive queries, which see the tokens up to their own.
  constexpr int64_t kQueries = 64;
  const int64_t blocks = (T + kQueries - 1) / kQueries;
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  Values read(static_cast<size_t>(T * q_width));
  Values scratch(static_cast<size_t>(worker_count(context) * std::min(T, kQueries) * total));
  const auto attend = [&](int64_t task, int worker) {
    const int64_t h = task / blocks, kv_head = h / (full.heads / full.kv_heads);
    const int64_t first = task % blocks * kQueries, queries = std::min(kQueries, T - first);
    const int64_t seen = past + first + queries;
    const float* q = &projected[first * row + h * 2 * dim];
    float* out = &read[first * q_width + h * dim];
    float* scores = &scratch[worker * std::min(T, kQueries) * total];  // [queries,seen]
    multiply_transposed(queries, seen, dim, q, row, &keys[kv_head * dim], kv_width, scores, seen);
    for (int64_t t = 0; t < queries; ++t) {
      softmax(scores + t * seen, past + first + t + 1, seen, scale);
    }
    multiply(queries, dim, seen, scores, seen, &values[kv_head * dim], kv_width, out, q_width);
    for (int64_t t = 0; t < queries; ++t) {
      const float* gate = q + t * row + dim;
      for (int64_t i = 0; i < dim; ++i) out[t * q_width + i] *= sigmoid(gate[i]);
    }
  };
  parallel_for(context, full.heads * blocks, 2 * T * total * q_width, attend);
  return apply(context, weights.out, read);
}

}  // namespace qwen35
