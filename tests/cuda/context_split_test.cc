// Long sequences of few heads, which the chunk operator on Hopper walks in segments side by side
// (chunk_sm90_segments.h): against the reference, and what the bits may depend on.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bits.h"
#include "cuda/kernels.h"
#include "kernels_under_test.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Case;

Case split_case(std::vector<int64_t> lengths, ContextSplit split) {
  Case c;
  c.lengths = std::move(lengths);
  c.H = 1;
  c.HV = 2;
  c.K = c.V = 64;
  c.dtype = DType::kBF16;
  c.l2norm = true;
  c.context_split = split;
  c.seed = 12;
  return c;
}

// Segments of one, two, three and five; ends on a segment's last token and one past it.
const std::vector<int64_t> kLengths = {700, 0, 2048, 2049, 4096, 64, 6145, 8300, 0};

TEST(ContextSplit, AgreesWithTheReference) {
  Case c = split_case(kLengths, ContextSplit::kFixed);
  expect_case(c);
  c.checkpoint_every = 192;
  c.indices = verify::Indices::kPool32;
  c.padding = verify::Padding::kNegative;
  c.has_initial = true;
  c.layout = StateLayout::kKV;
  c.tail = 70;
  expect_case(c);
}

TEST(ContextSplit, OfEveryDimensionAndDtype) {
  for (const auto& [K, V] :
       std::vector<std::pair<int64_t, int64_t>>{{128, 128}, {64, 128}, {128, 64}}) {
    for (DType dtype : {DType::kBF16, DType::kF16}) {
      Case c = split_case({4500, 6200}, ContextSplit::kFixed);
      c.K = K;
      c.V = V;
      c.dtype = dtype;
      expect_case(c);
      c.packing = verify::Packing::kRows;
      c.lengths = {4500, 4500};
      expect_case(c);
    }
  }
}

TEST(ContextSplit, HoldsOnHardInputs) {
  for (int input = 1; input < verify::kInputCount; ++input) {
    Case c = split_case({6500}, ContextSplit::kFixed);
    c.input = static_cast<verify::Input>(input);
    // Nothing is written, and over so many tokens the state falls below what float32 holds.
    if (c.input == verify::Input::kBetaZero) continue;
    expect_case(c);
  }
}

// The plan splits this on a GPU of any size that has the kernel; in parts, too.
TEST(ContextSplit, OfThePlanAgreesWithTheReference) {
  expect_case(split_case({9000}, ContextSplit::kAuto));
  const int64_t before = cuda::sm90_record_bytes;
  cuda::sm90_record_bytes = 50 * (2 * 16256 + 8192);  // some 50 chunks
  expect_case(split_case({9000}, ContextSplit::kAuto));
  cuda::sm90_record_bytes = before;
}

TEST(ContextSplit, OfFixedSegmentsDoesNotDependOnTheBatch) {
  const std::vector<int64_t> lengths = {700, 4300, 0, 6145, 2049};
  for_each_kernel([&](Context& context) {
    verify::DeltaRuleData pack = verify::make_delta_rule(split_case(lengths, ContextSplit::kFixed));
    expect_ok(verify::call(context, pack));
    int64_t row = 0;
    for (size_t n = 0; n < lengths.size(); ++n) {
      Case c = split_case({lengths[n]}, ContextSplit::kFixed);
      c.first = static_cast<int64_t>(n);
      verify::DeltaRuleData alone = verify::make_delta_rule(c);
      expect_ok(verify::call(context, alone));
      const int64_t in_row = c.HV * c.V, in_state = in_row * c.K;
      Bits got, expected;
      append(pack.out, row * in_row, lengths[n] * in_row, &got);
      append(pack.final_state, static_cast<int64_t>(n) * in_state, in_state, &got);
      append(alone.out, 0, lengths[n] * in_row, &expected);
      append(alone.final_state, 0, in_state, &expected);
      EXPECT_TRUE(got == expected) << "sequence " << n;
      row += lengths[n];
    }
  });
}

// Off it is, whatever the lengths: the bits of a sequence that is cut into two calls.
TEST(ContextSplit, OffSplitsNothing) {
  for_each_kernel([&](Context& context) {
    verify::DeltaRuleData data = verify::make_delta_rule(split_case({9000}, ContextSplit::kOff));
    Plan planned;
    expect_ok(plan(context, data.chunk_args(), &planned));
    EXPECT_EQ(planned.segment_tokens, 0);
  });
}

}  // namespace
}  // namespace gdn::tests
