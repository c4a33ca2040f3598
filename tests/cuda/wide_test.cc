// The chunk operator on Hopper, walked by blocks that have all V columns of a value head
// (chunk_wide.h): the bits are those of two blocks, for all that a call may have.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "bits.h"
#include "cuda/chunk_wide.h"
#include "cuda/kernels.h"
#include "kernels_under_test.h"
#include "one_sequence.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Case;

class WideBlocks : public testing::Test {
 public:
  ~WideBlocks() override {
    cuda::sm90::wide = cuda::sm90::Wide::kAuto;
    cuda::sm90_record_bytes = record_bytes_;
  }
  static std::vector<Bits> bits(Context& context, const Case& c, cuda::sm90::Wide wide) {
    cuda::sm90::wide = wide;
    return bits_of_call(context, c);
  }
  static void expect_same_bits(const Case& c) {
    for_each_kernel([&](Context& context) {
      EXPECT_TRUE(bits(context, c, cuda::sm90::Wide::kAlways) ==
                  bits(context, c, cuda::sm90::Wide::kNever));
    });
  }

 private:
  int64_t record_bytes_ = cuda::sm90_record_bytes;
};

TEST_F(WideBlocks, AgreeWithTheReference) {
  cuda::sm90::wide = cuda::sm90::Wide::kAlways;
  for (int64_t length : {64, 130, 1500}) expect_case(one_sequence(length, 2, 4));
}

TEST_F(WideBlocks, ChangeNoBit) {
  for (int64_t length : {1, 64, 65, 128, 1000, 4096}) expect_same_bits(one_sequence(length, 2, 4));
}

TEST_F(WideBlocks, ChangeNoBitOfSeveralSequences) {
  Case c = one_sequence(700, 2, 8);
  c.lengths = {700, 0, 64, 65, 1, 130};
  expect_same_bits(c);
  c.packing = verify::Packing::kRows;
  c.lengths = {65, 65, 65, 65};
  expect_same_bits(c);
}

// More clusters than a GPU has room for.
TEST_F(WideBlocks, ChangeNoBitOfManyHeads) {
  Case c = one_sequence(300, 16, 32);
  c.lengths = {300, 520, 64, 290, 700, 130};
  expect_same_bits(c);
}

// Moved by lanes, 16 bytes at a time or two.
TEST_F(WideBlocks, ChangeNoBitOfTensorsThatTheCopyEngineDoesNotTake) {
  Case c = one_sequence(400, 2, 4);
  c.shift = 1;
  expect_same_bits(c);
  c.shift = 0;
  for (verify::Strides strides : {verify::Strides::kPadded, verify::Strides::kFused}) {
    c.strides = strides;
    expect_same_bits(c);
  }
}

TEST_F(WideBlocks, ChangeNoBitOfCheckpointsAndPools) {
  Case c = one_sequence(2000, 2, 4);
  c.checkpoint_every = 192;
  c.indices = verify::Indices::kPool32;
  c.tail = 70;
  for (StateLayout layout : {StateLayout::kVK, StateLayout::kKV}) {
    c.layout = layout;
    expect_same_bits(c);
  }
}

TEST_F(WideBlocks, ChangeNoBitOfParts) {
  cuda::sm90_record_bytes = 9 * (4 * 16256 + 2 * 16384);  // of nine chunks
  Case c = one_sequence(2000, 2, 4);
  expect_same_bits(c);
  c.lengths = {700, 0, 64, 1300, 1};
  expect_same_bits(c);
}

// Residuals that float16 does not hold as they are, of one warpgroup and of both.
TEST_F(WideBlocks, ChangeNoBitOfLargeValues) {
  for_each_kernel([&](Context& context) {
    const auto bits_with = [&](cuda::sm90::Wide wide, int64_t columns) {
      cuda::sm90::wide = wide;
      verify::DeltaRuleData data = verify::make_delta_rule(one_sequence(300, 2, 4));
      for (int64_t i = 0; i < data.v.size(); ++i) {
        if (i % 128 < columns) data.v.set(i, data.v.get(i) * 0x1p14);
      }
      expect_ok(verify::call(context, data));
      return bits_of(data);
    };
    for (int64_t columns : {64, 128}) {
      EXPECT_TRUE(bits_with(cuda::sm90::Wide::kAlways, columns) ==
                  bits_with(cuda::sm90::Wide::kNever, columns));
    }
  });
}

// Blocks that find nothing to walk, and write zeros.
TEST_F(WideBlocks, ChangeNoBitOfNothing) {
  for (int64_t length : {0, 300}) {
    for (verify::Padding padding : {verify::Padding::kNegative, verify::Padding::kNone}) {
      Case c = one_sequence(length, 2, 4);
      c.indices = verify::Indices::kPool32;
      c.padding = padding;
      c.tail = 130;
      expect_same_bits(c);
    }
  }
}

}  // namespace
}  // namespace gdn::tests
