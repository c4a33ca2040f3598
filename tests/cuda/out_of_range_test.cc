// Values of cu_seqlens, indices and num_accepted that are out of range are padding on the device,
// and raise the caller's flag.
#include <gtest/gtest.h>

#include <cuda_runtime_api.h>

#include <vector>

#include "device_image.h"
#include "gdn/ops.h"
#include "gdn/plan.h"
#include "verify/inputs.h"
#include "verify/wanted.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::DeltaRuleData;
using verify::Operator;
using verify::Tensor;

// Runs a call on device tensors; whether it raised the flag.
template <class Args>
bool run_delta_rule(Args args, Status (*op)(Context&, const Args&)) {
  int32_t raised = 0;
  TensorView flag(&raised, {1});
  DeviceImage image;
  for (TensorView* view :
       {&args.q, &args.k, &args.v, &args.g, &args.A_log, &args.a, &args.dt_bias, &args.beta,
        &args.b, &args.cu_seqlens, &args.initial_state, &args.initial_state_indices,
        &args.final_state_indices, &args.has_initial_state, &args.num_accepted}) {
    image.add(view, false);
  }
  image.add(&args.out, true);
  image.add(&args.final_state, true);
  image.add(&flag, true);
  EXPECT_TRUE(image.place().ok());
  Context context;
  context.out_of_range = static_cast<int32_t*>(flag.data);
  Plan plan;
  EXPECT_TRUE(gdn::plan(context, args, &plan).ok());
  context.workspace = device_memory(plan.workspace_bytes, 1);
  context.workspace_bytes = plan.workspace_bytes;
  EXPECT_TRUE(image.upload(nullptr).ok());
  const Status status = op(context, args);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(image.download(nullptr).ok());
  EXPECT_EQ(image.stray_writes(), "");
  image.copy_back();
  return raised != 0;
}

bool run(const DeltaRuleData& data) {
  return data.about.op == Operator::kChunk ? run_delta_rule(data.chunk_args(), &chunk)
                                           : run_delta_rule(data.recurrent_args(), &recurrent);
}

class OutOfRange : public testing::TestWithParam<Operator> {
 protected:
  // A value that is wrong gives the bits of -1, which is padding, and says so.
  void expect_padding(const Case& c, Tensor DeltaRuleData::*indices, int64_t i, int64_t value) {
    SCOPED_TRACE(to_string(c) + " value " + std::to_string(value));
    DeltaRuleData wrong = verify::make_delta_rule(c), padded = verify::make_delta_rule(c);
    (wrong.*indices).set_int(i, value);
    (padded.*indices).set_int(i, -1);
    EXPECT_TRUE(run(wrong));
    EXPECT_FALSE(run(padded));
    EXPECT_TRUE(verify::same_memory(wrong.out, padded.out));
    EXPECT_TRUE(verify::same_memory(wrong.final_state, padded.final_state));
  }
  Case a_case(verify::Indices indices) const {
    Case c;
    c.op = GetParam();
    c.lengths = {3, 70, 5};
    c.H = 1;
    c.HV = 2;
    c.indices = indices;
    c.dtype = DType::kBF16;
    return c;
  }
};

TEST_P(OutOfRange, IndicesArePadding) {
  for (auto indices : {verify::Indices::kPool32, verify::Indices::kPool64}) {
    const Case c = a_case(indices);
    for (int64_t value : {100, 1 << 30}) {
      expect_padding(c, &DeltaRuleData::initial_state_indices, 1, value);
      expect_padding(c, &DeltaRuleData::final_state_indices, 2, value);
    }
  }
}

TEST_P(OutOfRange, NumAcceptedSkipsTheSequence) {
  const Case c = a_case(verify::Indices::kAccepted);
  for (int64_t value : {0, 1000, -5}) {
    DeltaRuleData data = verify::make_delta_rule(c);
    data.num_accepted.set_int(0, value);
    EXPECT_TRUE(run(data));
    for (int64_t i = 0; i < 3 * c.HV * c.V; ++i) ASSERT_EQ(data.out.get(i), 0);
    EXPECT_FALSE(data.out.unwritten(3 * c.HV * c.V));
  }
}

TEST_P(OutOfRange, SequencesThatEndPastTheTokensAreEmpty) {
  Case c = a_case(verify::Indices::kNone);
  DeltaRuleData data = verify::make_delta_rule(c);
  data.cu_seqlens.set_int(3, 1000);
  EXPECT_TRUE(run(data));
}

INSTANTIATE_TEST_SUITE_P(Operators, OutOfRange,
                         testing::Values(Operator::kChunk, Operator::kRecurrent),
                         [](const auto& p) { return verify::name_of(p.param); });

}  // namespace
}  // namespace gdn::tests
