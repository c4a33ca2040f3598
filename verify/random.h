// Numbers that are the same everywhere.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace gdn::verify {

class Random {
 public:
  // One stream of many: streams of different (seed, stream) do not meet.
  explicit Random(uint64_t seed, uint64_t stream = 0);
  uint64_t bits();
  double uniform();                             // [0, 1)
  double normal();                              // mean 0, deviation 1
  int64_t below(int64_t n);                     // [0, n)
  std::vector<int64_t> permutation(int64_t n);  // of 0 .. n-1

 private:
  uint64_t state_;
  std::optional<double> spare_;
};

}  // namespace gdn::verify
