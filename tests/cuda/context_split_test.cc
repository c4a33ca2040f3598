// Long sequences of few heads, which the chunk operator on Hopper walks in segments side by side
// (chunk_sm90_segments.h): against the reference, and what the bits may depend on.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bits.h"
#include "cuda/kernels.h"
#include "kernels_under_test.h"
#include "near_reference.h"
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
  c.states = verify::States::kInPlace;
  c.state = c.final_state = DType::kBF16;
  c.shift = 1;  // no tensor map takes this
  expect_case(c);
  c = split_case(kLengths, ContextSplit::kFixed);
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

// Segments after the first walked twice, and, in a call that the plan gives two segments, once.
const std::vector<std::pair<int64_t, ContextSplit>> kTwiceAndOnce = {{6500, ContextSplit::kFixed},
                                                                     {3000, ContextSplit::kAuto}};

TEST(ContextSplit, HoldsOnHardInputs) {
  for (const auto& [length, split] : kTwiceAndOnce) {
    for (int input = 1; input < verify::kInputCount; ++input) {
      Case c = split_case({length}, split);
      c.input = static_cast<verify::Input>(input);
      // Nothing is written, and over so many tokens the state falls below what float32 holds.
      if (c.input == verify::Input::kBetaZero) continue;
      expect_case(c);
    }
  }
}

// What comes after the first segment is that one's state through the transitions of the others, for
// their own values are zero. So little decays and is written that most of it arrives.
TEST(ContextSplit, TransitionsCarryAState) {
  for (int64_t K : {64, 128}) {
    for (int64_t V : {64, 128}) {
      for (const auto& [length, split, dtype] :
           std::vector<std::tuple<int64_t, ContextSplit, DType>>{
               {9000, ContextSplit::kFixed, DType::kBF16},
               {9000, ContextSplit::kFixed, DType::kF16},
               {3900, ContextSplit::kAuto, DType::kBF16}}) {
        const auto make = [&, length = length, split = split, dtype = dtype] {
          Case c = split_case({length}, split);
          c.K = K;
          c.V = V;
          c.dtype = dtype;
          verify::DeltaRuleData data = verify::make_delta_rule(c);
          for (int64_t i = 0; i < data.g.size(); ++i) data.g.set(i, data.g.get(i) * 1e-3);
          for (int64_t i = 0; i < data.beta.size(); ++i) data.beta.set(i, data.beta.get(i) * .01);
          for (int64_t i = 2048 * c.HV * V; i < data.v.size(); ++i) data.v.set(i, 0);
          return data;
        };
        SCOPED_TRACE("K " + std::to_string(K) + ", V " + std::to_string(V));
        expect_near_reference(make, 5e-3, 5e-3);  // as hard inputs (verify/tolerance.h)
      }
    }
  }
}

// Sums of g rise until no transition is a number any more; a state of zero stays one.
TEST(ContextSplit, OfNothingThereIsNothing) {
  for_each_kernel([&](Context& context) {
    for (const auto& [length, split] : kTwiceAndOnce) {
      Case c = split_case({length}, split);
      c.states = verify::States::kFinalOnly;
      verify::DeltaRuleData data = verify::make_delta_rule(c);
      for (int64_t i = 0; i < data.g.size(); ++i) data.g.set(i, length > 4000 ? .05 : .2);
      for (int64_t i = 0; i < data.v.size(); ++i) data.v.set(i, 0);
      expect_ok(verify::call(context, data));
      for (const verify::Tensor* x : {&data.out, &data.final_state}) {
        for (int64_t i = 0; i < x->size(); ++i) ASSERT_EQ(x->get(i), 0) << i;
      }
    }
  });
}

// The plan gives these two segments on a GPU of any size that has the kernel, and walks the second
// once.
void expect_walked_once(const Case& c) {
  for_each_kernel([&](Context& context) {
    if (context.kernel != std::string("sm90")) return;
    Plan planned;
    const verify::DeltaRuleData data = verify::make_delta_rule(c);
    expect_ok(plan(context, data.chunk_args(), &planned));
    EXPECT_TRUE(planned.segments_walked_once) << to_string(planned);
  });
  expect_case(c);
}

TEST(WalkedOnce, AgreesWithTheReference) {
  for (int64_t length : {1536, 2048, 2049, 2111, 4096}) {
    expect_walked_once(split_case({length}, ContextSplit::kAuto));
  }
}

TEST(WalkedOnce, OfEveryDimensionAndPlace) {
  for (const auto& [K, V] :
       std::vector<std::pair<int64_t, int64_t>>{{128, 128}, {64, 128}, {128, 64}}) {
    Case c = split_case({2500}, ContextSplit::kAuto);
    c.K = K;
    c.V = V;
    expect_walked_once(c);
    c.packing = verify::Packing::kRows;
    expect_walked_once(c);
    c.states = verify::States::kInPlace;
    c.state = c.final_state = DType::kBF16;
    c.shift = 1;  // no tensor map takes this
    expect_walked_once(c);
    c = split_case({2500}, ContextSplit::kAuto);
    c.K = K;
    c.V = V;
    c.layout = StateLayout::kKV;
    c.indices = verify::Indices::kPool32;
    c.has_initial = true;
    c.tail = 70;
    expect_walked_once(c);
  }
}

// The rows that a call counts as tokens, as cu_seqlens lies on the device, are not all the
// sequence's: what is left of it is one segment, or nothing.
TEST(WalkedOnce, OfAShorterSequence) {
  for (int64_t length : {0, 1, 64, 900, 1300}) {
    Case c = split_case({length}, ContextSplit::kAuto);
    c.tail = 2600 - length;
    expect_case(c);
  }
}

TEST(WalkedOnce, GivesTheSameBitsAgain) {
  for_each_kernel([&](Context& context) {
    std::vector<Bits> first;
    for (int turn = 0; turn < 20; ++turn) {
      Case c = split_case({3900}, ContextSplit::kAuto);
      c.K = c.V = 128;
      verify::DeltaRuleData data = verify::make_delta_rule(c);
      expect_ok(verify::call(context, data));
      if (turn == 0) first = bits_of(data);
      EXPECT_TRUE(bits_of(data) == first) << turn;
    }
  });
}

TEST(WalkedOnce, OfPaddingNothingIsWritten) {
  Case c = split_case({2500}, ContextSplit::kAuto);
  c.indices = verify::Indices::kPool32;
  c.padding = verify::Padding::kNegative;
  expect_walked_once(c);
}

// Which are stored by another walk.
TEST(WalkedOnce, NotWithCheckpoints) {
  Case c = split_case({2500}, ContextSplit::kAuto);
  c.checkpoint_every = 192;
  expect_walked_once(c);
}

// The plan splits this on a GPU of any size that has the kernel; in parts, too.
class ChosenSplit : public testing::Test {
 public:
  ~ChosenSplit() override { cuda::sm90_record_bytes = before_; }
  static void expect_split(const Case& c) {
    for_each_kernel([&](Context& context) {
      if (context.kernel != std::string("sm90")) return;
      Plan planned;
      const verify::DeltaRuleData data = verify::make_delta_rule(c);
      expect_ok(plan(context, data.chunk_args(), &planned));
      EXPECT_GT(planned.segment_tokens, 0);
    });
    expect_case(c);
  }

 private:
  int64_t before_ = cuda::sm90_record_bytes;
};

TEST_F(ChosenSplit, AgreesWithTheReference) {
  expect_split(split_case({9000}, ContextSplit::kAuto));
}

TEST_F(ChosenSplit, InPartsAgreesWithTheReference) {
  cuda::sm90_record_bytes = 60 * (2 * 16256 + 8192);  // some 60 chunks
  Case c = split_case({9000}, ContextSplit::kAuto);
  expect_split(c);
  c.lengths = {3000, 3, 9500, 0, 5000};
  c.checkpoint_every = 192;
  c.indices = verify::Indices::kPool32;
  c.padding = verify::Padding::kNegative;
  expect_split(c);
}

TEST(ContextSplit, OfFixedSegmentsDoesNotDependOnTheBatch) {
  const std::vector<int64_t> lengths = {700, 4300, 0, 6145, 2049};
  for_each_kernel([&](Context& context) {
    verify::DeltaRuleData pack = verify::make_delta_rule(split_case(lengths, ContextSplit::kFixed));
    expect_ok(verify::call(context, pack));
    const std::vector<Bits> got = bits_of(pack);
    for (size_t n = 0; n < lengths.size(); ++n) {
      Case c = split_case({lengths[n]}, ContextSplit::kFixed);
      c.first = static_cast<int64_t>(n);
      verify::DeltaRuleData alone = verify::make_delta_rule(c);
      expect_ok(verify::call(context, alone));
      EXPECT_TRUE(got[n] == bits_of(alone)[0]) << "sequence " << n;
    }
  });
}

// In a batch that fills the GPU by itself nothing is split: the bits of a call in which it is off.
TEST(ContextSplit, OffSplitsNothing) {
  for_each_kernel([&](Context& context) {
    std::vector<int64_t> lengths(100, 64);
    lengths[0] = 9000;
    verify::DeltaRuleData pack = verify::make_delta_rule(split_case(lengths, ContextSplit::kAuto));
    verify::DeltaRuleData alone = verify::make_delta_rule(split_case({9000}, ContextSplit::kOff));
    expect_ok(verify::call(context, pack));
    expect_ok(verify::call(context, alone));
    EXPECT_TRUE(bits_of(pack)[0] == bits_of(alone)[0]);
  });
}

}  // namespace
}  // namespace gdn::tests
