// Inputs of trained layers on real text against what an independent program computed from them.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "gdn/ops.h"
#include "gdn/plan.h"
#include "kernels_under_test.h"
#include "verify/captures.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Capture;
using verify::Comparand;
using verify::DeltaRuleData;
using verify::Quantity;
using verify::Tensor;

const std::vector<Capture>& captures() {
  static const std::vector<Capture> all = [] {
    std::vector<Capture> list;
    expect_ok(verify::read_captures(GDN_DATA_DIR, &list));
    return list;
  }();
  return all;
}

// Gates and l2norm inside, as the layers have them.
void expect_capture(const Capture& capture, verify::Operator op, DType dtype) {
  SCOPED_TRACE(testing::Message() << capture.layer << " " << verify::name_of(op) << " "
                                  << name_of(dtype));
  for_each_kernel([&](Context& context) {
    DeltaRuleData data = verify::converted(capture.file.data, dtype);
    data.about.op = op;
    data.out = Tensor(dtype, data.out.shape());
    data.final_state = Tensor(DType::kF32, capture.file.final_state_expected.shape());
    ASSERT_TRUE(data.a.given() && data.b.given() && data.about.l2norm);
    expect_ok(verify::call(context, data));
    Plan plan;
    expect_ok(op == verify::Operator::kChunk ? gdn::plan(context, data.chunk_args(), &plan)
                                             : gdn::plan(context, data.recurrent_args(), &plan));
    Comparand about;
    about.compute = plan.compute;
    expect_close("out", data.out, capture.file.out_expected.to_doubles(), about);
    about.quantity = Quantity::kState;
    expect_close("final_state", data.final_state, capture.file.final_state_expected.to_doubles(),
                 about);
  });
}

class Captures : public testing::Test {
 protected:
  void SetUp() override {
    if (quick()) GTEST_SKIP() << "not among the quick tests";
  }
};

TEST_F(Captures, AreTwoLayersOfSixSequences) {
  ASSERT_EQ(captures().size(), 2u);
  for (const Capture& capture : captures()) {
    EXPECT_EQ(capture.file.data.about.lengths, (std::vector<int64_t>{700, 129, 64, 63, 1, 300}));
  }
}

TEST_F(Captures, ChunkGivesTheStoredOutputAndState) {
  for (const Capture& capture : captures()) {
    for (DType dtype : {DType::kBF16, DType::kF32}) {
      expect_capture(capture, verify::Operator::kChunk, dtype);
    }
  }
}

TEST_F(Captures, RecurrentGivesTheStoredOutputAndState) {
  for (const Capture& capture : captures()) {
    for (DType dtype : {DType::kBF16, DType::kF32}) {
      expect_capture(capture, verify::Operator::kRecurrent, dtype);
    }
  }
}

TEST_F(Captures, GatingGivesTheStoredGates) {
  for (const Capture& capture : captures()) {
    SCOPED_TRACE(capture.layer);
    for_each_kernel([&](Context& context) {
      const DeltaRuleData& data = capture.file.data;
      const Tensor g(DType::kF32, capture.g_expected.shape());
      const Tensor beta(DType::kF32, capture.beta_expected.shape());
      GatingArgs args;
      args.a = data.a.view();
      args.b = data.b.view();
      args.A_log = data.A_log.view();
      args.dt_bias = data.dt_bias.view();
      args.g = g.view();
      args.beta = beta.view();
      expect_ok(gating(context, args));
      expect_close("g", g, capture.g_expected.to_doubles());
      expect_close("beta", beta, capture.beta_expected.to_doubles());
    });
  }
}

}  // namespace
}  // namespace gdn::tests
