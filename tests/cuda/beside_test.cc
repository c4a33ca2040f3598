// The preparation of the chunk operator on Hopper beside its recurrence (chunk_sm90_beside.h): the
// bits are those of the preparation before it, whatever the workspace held, and for all that a call
// of one sequence may have.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "bits.h"
#include "cuda/chunk_beside.h"
#include "kernels_under_test.h"
#include "one_sequence.h"
#include "verify/case.h"

namespace gdn::tests {
namespace {

using verify::Case;

// The preparation before the recurrence; beside it, a block an item where all are resident at once;
// beside it, in blocks that stay, of every call that has one sequence and few heads.
enum class Way { kBefore, kItems, kStaying };

class Beside : public testing::Test {
 public:
  ~Beside() override {
    cuda::sm90::beside_least_records = least_;
    cuda::sm90::beside_allowed = true;
  }
  static void choose(Way way) {
    cuda::sm90::beside_allowed = way != Way::kBefore;
    cuda::sm90::beside_least_records = way == Way::kStaying ? 0 : int64_t{1} << 40;
  }
  static std::vector<Bits> bits(Context& context, const Case& c, Way way) {
    choose(way);
    return bits_of_call(context, c);
  }
  static void expect_same_bits(const Case& c) {
    for_each_kernel([&](Context& context) {
      const std::vector<Bits> before = bits(context, c, Way::kBefore);
      // The workspace is full of raised flags from the second on.
      for (Way way : {Way::kItems, Way::kStaying, Way::kItems}) {
        EXPECT_TRUE(bits(context, c, way) == before) << static_cast<int>(way);
      }
    });
  }

 private:
  int64_t least_ = cuda::sm90::beside_least_records;
};

TEST_F(Beside, AgreesWithTheReference) {
  for (Way way : {Way::kItems, Way::kStaying}) {
    choose(way);
    expect_case(one_sequence(1500, 2, 4));
  }
}

TEST_F(Beside, ChangesNoBitOfSeveralSequences) {
  Case c = one_sequence(700, 2, 4);
  c.lengths = {700, 0, 64, 65, 1, 130};
  expect_same_bits(c);
  c.packing = verify::Packing::kRows;
  c.lengths = {65, 65, 65, 65};
  expect_same_bits(c);
}

TEST_F(Beside, ChangesNoBit) {
  for (int64_t length : {1, 64, 65, 1000, 4096}) expect_same_bits(one_sequence(length, 2, 4));
}

TEST_F(Beside, ChangesNoBitOfAnyGroup) {
  for (int64_t group : {1, 2, 3, 4, 6}) expect_same_bits(one_sequence(700, 2, 2 * group));
}

// More items than teams of all blocks, so that a team takes several.
TEST_F(Beside, ChangesNoBitOfManyItems) {
  expect_same_bits(one_sequence(6000, 16, 32));
  expect_same_bits(one_sequence(20000, 4, 16));
}

TEST_F(Beside, ChangesNoBitOfOtherDims) {
  for (int64_t dim : {64, 128}) {
    for (DType dtype : {DType::kBF16, DType::kF16}) {
      Case c = one_sequence(900, 2, 4);
      c.K = dim;
      c.V = 192 - dim;
      c.dtype = dtype;
      expect_same_bits(c);
    }
  }
}

TEST_F(Beside, ChangesNoBitOfCheckpointsAndPools) {
  Case c = one_sequence(2000, 2, 4);
  c.checkpoint_every = 192;
  c.indices = verify::Indices::kPool32;
  c.layout = StateLayout::kKV;
  c.tail = 70;
  expect_same_bits(c);
}

// Blocks that find nothing to walk, and write zeros while the preparation runs.
TEST_F(Beside, ChangesNoBitOfNothing) {
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
