#include "layers.h"

namespace qwen35 {

void rms_norm_row(const float* x, const Values& weight, double eps, float* y) {
  double sum = 0;
  for (size_t i = 0; i < weight.size(); ++i) sum += static_cast<double>(x[i]) * x[i];
  const auto scale =
      static_cast<float>(1 / std::sqrt(sum / static_cast<double>(weight.size()) + eps));
  for (size_t i = 0; i < weight.size(); ++i) y[i] = x[i] * scale * (1 + weight[i]);
}

Values rms_norm(const Values& x, const Values& weight, double eps) {
  Values y(x.size());
  for (size_t i = 0; i < x.size(); i += weight.size()) rms_norm_row(&x[i], weight, eps, &y[i]);
  return y;
}

Values mlp(gdn::Context& context, const LayerWeights& weights, const Values& x) {
  const Values gate_up = apply(context, weights.mlp_in, x);
  const int64_t width = weights.mlp_out.in;
  const int64_t tokens = static_cast<int64_t>(gate_up.size()) / (2 * width);
  Values inner(static_cast<size_t>(tokens * width));
  constexpr int64_t kSilu = 20;  // about so many multiplications
  parallel_for(context, tokens, tokens * width * kSilu, [&](int64_t t, int) {
    const float* gate = &gate_up[t * 2 * width];
    const float* up = gate + width;
    for (int64_t i = 0; i < width; ++i) inner[t * width + i] = silu(gate[i]) * up[i];
  });
  return apply(context, weights.mlp_out, inner);
}

}  // namespace qwen35
