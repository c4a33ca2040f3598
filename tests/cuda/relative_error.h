#pragma once

#include <cmath>
#include <cstdint>

#include "verify/tensor.h"

namespace gdn::tests {

// ||got - expected|| / ||expected||.
inline double relative_error(const verify::Tensor& got, const verify::Tensor& expected) {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    error += std::pow(got.get(i) - expected.get(i), 2);
    norm += std::pow(expected.get(i), 2);
  }
  return std::sqrt(error / norm);
}

}  // namespace gdn::tests
