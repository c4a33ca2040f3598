// Calls long enough that the chunk operator on Hopper takes them in parts (chunk_sm90_record.h):
// the state of a sequence goes from one part to the next, checkpoints and ends fall into any, and
// no bit shows where the parts end.
#include <gtest/gtest.h>

#include <cstdint>
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

Case long_case(std::vector<int64_t> lengths) {
  Case c;
  c.lengths = std::move(lengths);
  c.H = 2;
  c.HV = 4;
  c.K = c.V = 64;
  c.dtype = DType::kBF16;
  c.l2norm = true;
  c.seed = 11;
  return c;
}

// Parts of some nine chunks of long_case().
class ChunkParts : public testing::Test {
 public:
  ChunkParts() { cuda::sm90_record_bytes = 9 * (4 * 16256 + 2 * 8192); }
  ~ChunkParts() override { cuda::sm90_record_bytes = before_; }

 private:
  int64_t before_ = cuda::sm90_record_bytes;
};

TEST_F(ChunkParts, AgreeWithTheReference) {
  for (Case c : {long_case({4500}), long_case({1000, 0, 3, 1500, 64, 2100, 0})}) {
    expect_case(c);
    c.checkpoint_every = 192;
    c.indices = verify::Indices::kPool32;
    c.padding = verify::Padding::kNegative;
    c.layout = StateLayout::kKV;
    c.tail = 70;
    expect_case(c);
  }
}

TEST_F(ChunkParts, ChangeNoBit) {
  const std::vector<int64_t> lengths = {1000, 0, 3, 1500, 64, 2100, 0};
  for_each_kernel([&](Context& context) {
    verify::DeltaRuleData pack = verify::make_delta_rule(long_case(lengths));
    expect_ok(verify::call(context, pack));
    const std::vector<Bits> got = bits_of(pack);
    for (size_t n = 0; n < lengths.size(); ++n) {
      Case c = long_case({lengths[n]});
      c.first = static_cast<int64_t>(n);
      verify::DeltaRuleData alone = verify::make_delta_rule(c);
      expect_ok(verify::call(context, alone));
      EXPECT_TRUE(got[n] == bits_of(alone)[0]) << "sequence " << n;
    }
  });
}

}  // namespace
}  // namespace gdn::tests
