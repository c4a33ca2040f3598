// The inputs that break implementations, on every kernel and against the bounds for them.
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "kernels_under_test.h"
#include "verify/case.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::Input;
using verify::Operator;

class HardInputs : public testing::TestWithParam<std::tuple<Operator, Input>> {};

TEST_P(HardInputs, AgreeWithTheReference) {
  struct Dims {
    int64_t K, V;
  };
  uint64_t seed = 100;
  for (const Dims& dims : {Dims{128, 128}, Dims{64, 96}, Dims{256, 32}}) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (bool l2norm : {false, true}) {
        Case c;
        std::tie(c.op, c.input) = GetParam();
        c.lengths = c.op == Operator::kReplay ? std::vector<int64_t>{8, 3}
                    : quick()                 ? std::vector<int64_t>{70, 17}
                                              : std::vector<int64_t>{300, 64, 17};
        c.H = 1;
        c.HV = 2;
        c.K = dims.K;
        c.V = dims.V;
        c.dtype = dtype;
        c.l2norm = l2norm;
        c.seed = seed++;
        if (c.op == Operator::kReplay) c.states = verify::States::kInPlace;
        if (quick() && (l2norm || dims.K != 64)) continue;
        expect_case(c);
      }
    }
  }
}

std::vector<Input> hard_inputs() {
  std::vector<Input> inputs;
  for (int i = 1; i < verify::kInputCount; ++i) inputs.push_back(static_cast<Input>(i));
  return inputs;
}
INSTANTIATE_TEST_SUITE_P(All, HardInputs,
                         testing::Combine(testing::Values(Operator::kChunk, Operator::kRecurrent,
                                                          Operator::kReplay),
                                          testing::ValuesIn(hard_inputs())),
                         [](const auto& p) {
                           return std::string(verify::name_of(std::get<0>(p.param))) + "_" +
                                  verify::name_of(std::get<1>(p.param));
                         });

}  // namespace
}  // namespace gdn::tests
