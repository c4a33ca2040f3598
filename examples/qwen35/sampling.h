// The choice of the next token.
#pragma once

#include <cstdint>
#include <random>
#include <span>

namespace qwen35 {

class Sampler {
 public:
  // Temperature 0 takes the likeliest token, others draw from softmax(logits / temperature). The
  // same seed gives the same draws on every machine.
  Sampler(double temperature, uint64_t seed) : temperature_(temperature), random_(seed) {}

  int64_t choose(std::span<const float> logits);

 private:
  double temperature_;
  std::mt19937_64 random_;
};

}  // namespace qwen35
