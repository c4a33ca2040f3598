// The bits of a sequence that causal_conv1d() gives depend on that sequence's inputs and state and
// the options of the call alone. One test a sentence.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bits.h"
#include "gdn/ops.h"
#include "kernels_under_test.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::CausalConv1dData;
using verify::Tensor;

// What a sequence got: y of its tokens, then its last state.
std::vector<Bits> bits_of(const CausalConv1dData& data) {
  const Case& c = data.about;
  std::vector<Bits> all;
  int64_t row = 0;
  for (int64_t n = 0; n < c.sequences(); ++n) {
    Bits bits;
    const int64_t length = c.lengths[static_cast<size_t>(n)];
    append(data.y, row * c.D, length * c.D, &bits);
    row += length;
    const int64_t slot = data.final_state_indices.given() ? data.final_state_indices.get_int(n) : n;
    const int64_t elements = c.D * c.state_length();
    append(data.final_state, slot * elements, elements, &bits);
    all.push_back(std::move(bits));
  }
  return all;
}

std::vector<Bits> bits_of_case(Context& context, const Case& c, int threads = 1) {
  Context own = context;
  own.executor = executor_of(threads);
  const CausalConv1dData data = verify::make_causal_conv1d(c);
  expect_ok(causal_conv1d(own, data.args()));
  return bits_of(data);
}

// body(context, case) for every kernel and shape.
template <class Body>
void for_each(const Body& body) {
  for_each_kernel([&](Context& context) {
    uint64_t seed = 60;
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (int64_t W : {4, 3, 8}) {
        for (int64_t D : {300, 5}) {
          if (quick() && (W == 8 || dtype == DType::kF16)) continue;
          Case c;
          c.op = verify::Operator::kCausalConv1d;
          c.dtype = dtype;
          c.D = D;
          c.W = W;
          c.silu = W != 3;
          c.bias = W == 3;
          c.spare = W == 8 ? 2 : 0;
          c.lengths = {300, 2, 0, 64, 1, 150};
          c.seed = seed++;
          SCOPED_TRACE(verify::repeat_line(c, context));
          body(context, c);
        }
      }
    }
  });
}

TEST(CausalConv1dDeterminism, ThreadsChangeNoBit) {
  for_each([](Context& context, const Case& c) {
    const auto alone = bits_of_case(context, c, 1);
    EXPECT_EQ(bits_of_case(context, c, 2), alone);
    EXPECT_EQ(bits_of_case(context, c, 5), alone);
    // One sequence, which many threads share by its tokens and its channels.
    Case single = c;
    single.lengths = {300};
    EXPECT_EQ(bits_of_case(context, single, 5)[0], alone[0]);
    single.D = 2000;
    single.lengths = {9};
    EXPECT_EQ(bits_of_case(context, single, 5), bits_of_case(context, single, 1));
    // Ranges of tokens that end inside of the first W - 1.
    single.lengths = {2, 1, 2, 1, 3, 1, 1};
    EXPECT_EQ(bits_of_case(context, single, 5), bits_of_case(context, single, 1));
  });
}

TEST(CausalConv1dDeterminism, NeighboursAndPositionInThePackChangeNoBit) {
  for_each([](Context& context, const Case& c) {
    const auto together = bits_of_case(context, c);
    for (int64_t n = 0; n < c.sequences(); ++n) {
      Case alone = c;
      alone.lengths = {c.lengths[static_cast<size_t>(n)]};
      alone.first = n;
      EXPECT_EQ(bits_of_case(context, alone)[0], together[static_cast<size_t>(n)]) << n;
    }
  });
}

TEST(CausalConv1dDeterminism, PackingSlotsAlignmentAndStridesChangeNoBit) {
  for_each([](Context& context, const Case& shape) {
    Case c = shape;
    c.lengths = {70, 70, 70};
    c.tail = 5;
    const auto expected = bits_of_case(context, c);
    Case other = c;
    other.packing = verify::Packing::kRows;
    other.tail = 0;
    EXPECT_EQ(bits_of_case(context, other), expected);
    other = c;
    other.indices = verify::Indices::kPool32;
    EXPECT_EQ(bits_of_case(context, other), expected);
    other.states = verify::States::kInPlace;
    EXPECT_EQ(bits_of_case(context, other, 5), expected);
    other.channels_last = true;
    EXPECT_EQ(bits_of_case(context, other, 5), expected);
    for (int64_t shift : {1, 2, 5, 16}) {
      other.shift = shift;
      EXPECT_EQ(bits_of_case(context, other), expected) << "shift " << shift;
    }
    other.strides = verify::Strides::kPadded;
    EXPECT_EQ(bits_of_case(context, other), expected);
    other.strides = verify::Strides::kFused;
    EXPECT_EQ(bits_of_case(context, other), expected);
  });
}

// Outputs of 16 MiB and more are stored past the caches where they are aligned.
TEST(CausalConv1dDeterminism, LargeOutputsHaveTheSameBits) {
  if (quick()) GTEST_SKIP() << "too large for the quick subset";
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    Case c;
    c.op = verify::Operator::kCausalConv1d;
    c.dtype = dtype;
    c.D = 2112;
    c.lengths = {4 * 1000 / size_of(dtype) * 2 + 3, 5};
    c.silu = true;
    const CausalConv1dData data = verify::make_causal_conv1d(c);
    ASSERT_GE(data.y.size() * size_of(dtype), 16 << 20);
    c.shift = 1;
    const CausalConv1dData unaligned = verify::make_causal_conv1d(c);
    for_each_kernel([&](Context& context) {
      context.executor = executor_of(2);
      CausalConv1dData a = data, b = unaligned;
      a.y = data.y.clone();
      b.y = unaligned.y.clone();
      expect_ok(causal_conv1d(context, a.args()));
      expect_ok(causal_conv1d(context, b.args()));
      int64_t differ = 0;
      for (int64_t i = 0; i < a.y.size(); ++i) differ += !a.y.same_bits(i, b.y, i);
      EXPECT_EQ(differ, 0);
      EXPECT_FALSE(a.y.unwritten(a.y.size() - 1));
    });
  }
}

TEST(CausalConv1dDeterminism, CutsAnywhereGiveTheBitsOfTheUncutCall) {
  for_each([](Context& context, const Case& shape) {
    Case c = shape;
    c.packing = verify::Packing::kRows;
    c.lengths = {61};
    const auto uncut = bits_of_case(context, c);
    std::vector<int64_t> every;
    for (int64_t t = 0; t <= 61; ++t) every.push_back(t);
    for (const std::vector<int64_t>& cuts :
         {every, std::vector<int64_t>{0, 1, 61}, {0, 2, 2, 5, 61}, {0, 7, 40, 61}, {0, 60, 61}}) {
      const CausalConv1dData data = verify::make_causal_conv1d(c);
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        CausalConv1dArgs args = data.args();
        for (TensorView* view : {&args.x, &args.y}) {
          view->data = static_cast<std::byte*>(view->data) +
                       cuts[i] * view->strides[1] * size_of(view->dtype);
          view->shape[1] = cuts[i + 1] - cuts[i];
        }
        if (i > 0) args.initial_state = args.final_state;
        expect_ok(causal_conv1d(context, args));
      }
      EXPECT_EQ(bits_of(data), uncut) << cuts.size() - 1 << " parts";
    }
  });
}

// The state after token t, stored or rather the last of a call that ends there.
TEST(CausalConv1dDeterminism, StatesOfEveryTokenAreThoseOfTheCallThatEndsThere) {
  for_each([](Context& context, const Case& shape) {
    Case c = shape;
    c.lengths = {12};
    c.indices = verify::Indices::kPerToken;
    const CausalConv1dData data = verify::make_causal_conv1d(c);
    expect_ok(causal_conv1d(context, data.args()));
    const int64_t elements = c.D * c.state_length();
    for (int64_t t = 0; t < 12; ++t) {
      Case part = c;
      part.lengths = {t + 1};
      part.indices = verify::Indices::kNone;
      const CausalConv1dData cut = verify::make_causal_conv1d(part);
      expect_ok(causal_conv1d(context, cut.args()));
      Bits stored, last;
      append(data.final_state, data.final_state_indices.get_int(t) * elements, elements, &stored);
      append(cut.final_state, 0, elements, &last);
      EXPECT_EQ(stored, last) << "token " << t;
    }
  });
}

}  // namespace
}  // namespace gdn::tests
