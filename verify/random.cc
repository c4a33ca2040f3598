#include "verify/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace gdn::verify {
namespace {

uint64_t mix(uint64_t x) {  // the finaliser of splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

Random::Random(uint64_t seed, uint64_t stream)
    : state_(mix(mix(seed + 0x9e3779b97f4a7c15u) + stream * 0xd1342543de82ef95u)) {}

uint64_t Random::bits() {
  state_ += 0x9e3779b97f4a7c15u;
  return mix(state_);
}

double Random::uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }

double Random::normal() {
  if (spare_) return *std::exchange(spare_, std::nullopt);
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));  // Box and Muller
  const double angle = 2 * std::numbers::pi * uniform();
  spare_ = radius * std::sin(angle);
  return radius * std::cos(angle);
}

int64_t Random::below(int64_t n) {
  return static_cast<int64_t>(bits() % static_cast<uint64_t>(std::max<int64_t>(1, n)));
}

std::vector<int64_t> Random::permutation(int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = n - 1; i > 0; --i) {
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(below(i + 1))]);
  }
  return order;
}

}  // namespace gdn::verify
