// For data that no verify::Case describes: a call on every kernel beside the same on the reference.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

#include "kernels_under_test.h"
#include "verify/inputs.h"
#include "verify/run.h"
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

// make() gives the data of a call, the same every time; bounds of out and final_state.
template <class Make>
void expect_near_reference(const Make& make, double out, double final_state) {
  Context reference;
  reference.kernel = "reference";
  verify::DeltaRuleData expected = make();
  expect_ok(verify::call(reference, expected));
  for_each_kernel([&](Context& context) {
    verify::DeltaRuleData got = make();
    expect_ok(verify::call(context, got));
    EXPECT_LE(relative_error(got.out, expected.out), out);
    EXPECT_LE(relative_error(got.final_state, expected.final_state), final_state);
  });
}

}  // namespace gdn::tests
