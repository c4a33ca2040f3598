#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace qwen35 {

int64_t Sampler::choose(std::span<const float> logits) {
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  if (temperature_ <= 0) return likeliest - logits.begin();

  std::vector<double> sums;  // of the weights up to each token
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp((static_cast<double>(logit) - *likeliest) / temperature_);
    sums.push_back(sum);
  }
  // Uniform in [0,1) with 53 bits: std::uniform_real_distribution differs between libraries.
  const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;
  const auto chosen = std::upper_bound(sums.begin(), sums.end(), uniform * sum);
  return std::min<int64_t>(chosen - sums.begin(), static_cast<int64_t>(logits.size()) - 1);
}

}  // namespace qwen35
