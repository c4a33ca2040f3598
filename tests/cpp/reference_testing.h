// What the tests of the reference share: comparison in double, and drawn calls as problems.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "check/check.h"
#include "problem.h"
#include "verify/case.h"
#include "verify/inputs.h"

namespace gdn::reference {

using verify::Case;
using verify::Input;
using Vector = std::vector<double>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Two ways to compute the same in double, relative L2. 2^-53 is 1.1e-16; sums of 1000 tokens that
// reach back into the state leave some hundreds of it.
constexpr double kSameInDouble = 1e-12;

inline double norm(const Vector& x) {
  double sum = 0;
  for (double e : x) sum += e * e;
  return std::sqrt(sum);
}

inline double difference(const Vector& x, const Vector& y) {
  if (x.size() != y.size()) return kNaN;
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  return std::sqrt(sum);
}

inline testing::AssertionResult same(const Vector& x, const Vector& y,
                                     double relative = kSameInDouble) {
  const double error = difference(x, y), bound = relative * norm(y);
  if (error <= bound) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "L2 difference " << error << ", expected at most " << bound;
}

// `count` elements from `first` on.
inline Vector part(const Vector& x, int64_t first, int64_t count) {
  return {x.begin() + first, x.begin() + first + count};
}

// A drawn call, checked.
struct Drawn {
  explicit Drawn(const Case& c) : data(verify::make_delta_rule(c)) {
    const Status status = c.op == verify::Operator::kChunk ? check(data.chunk_args(), &problem)
                                                           : check(data.recurrent_args(), &problem);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  verify::DeltaRuleData data;
  DeltaRuleProblem problem;
};

inline Case drawn_case(std::vector<int64_t> lengths, int64_t H, int64_t HV, int64_t K, int64_t V,
                       Input input = Input::kUsual) {
  Case c;
  c.lengths = std::move(lengths);
  c.H = H;
  c.HV = HV;
  c.K = K;
  c.V = V;
  c.input = input;
  c.seed = 3;
  return c;
}

}  // namespace gdn::reference
