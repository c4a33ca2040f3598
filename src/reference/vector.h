// The two loops that everything in the reference is made of, on contiguous doubles.
#pragma once

#include <cstdint>

namespace gdn::reference {

// sum x_i y_i. In eight partial sums, which the compiler can keep in vectors; one sum it may not
// reorder.
inline double dot(const double* x, const double* y, int64_t n) {
  constexpr int kSums = 8;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int j = 0; j < kSums; ++j) sums[j] += x[i + j] * y[i + j];
  }
  double sum = 0;
  for (; i < n; ++i) sum += x[i] * y[i];
  for (int j = 0; j < kSums; ++j) sum += sums[j];
  return sum;
}

// y += a x.
inline void add_scaled(double a, const double* x, int64_t n, double* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

}  // namespace gdn::reference
