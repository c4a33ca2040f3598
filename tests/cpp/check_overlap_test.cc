// Overlap of strided tensors against marking every byte.
#include "check/overlap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "gdn/tensor.h"

namespace gdn {
namespace {

alignas(8) std::byte memory[1 << 16];

// Calls visit(address) for every byte of every element.
template <class Visit>
void for_each_byte(const TensorView& view, const Visit& visit) {
  int64_t index[TensorView::kMaxRank] = {};
  for (int64_t i = 0; i < view.size(); ++i) {
    int64_t rest = i, offset = 0;
    for (int axis = view.rank - 1; axis >= 0; --axis) {
      index[axis] = rest % view.shape[axis];
      rest /= view.shape[axis];
      offset += index[axis] * view.strides[axis];
    }
    const auto address = reinterpret_cast<uintptr_t>(view.data) +
                         static_cast<uintptr_t>(offset * size_of(view.dtype));
    for (int64_t byte = 0; byte < size_of(view.dtype); ++byte) {
      visit(address + static_cast<uintptr_t>(byte));
    }
  }
}

TensorView random_view(std::mt19937& random, int max_offset) {
  const auto draw = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  const DType dtypes[] = {DType::kBF16, DType::kF32, DType::kI64};
  TensorView view;
  view.dtype = dtypes[draw(0, 2)];
  view.data = memory + (1 << 15) + 2 * draw(0, max_offset / 2);
  view.rank = draw(0, 4);
  for (int i = 0; i < view.rank; ++i) {
    view.shape[i] = draw(0, 9) == 0 ? 0 : draw(1, 4);
    // Multiples of a few numbers, so that axes nest and strides of two tensors agree.
    const int units[] = {1, 1, 3, 8, 24};
    view.strides[i] = units[draw(0, 4)] * draw(-2, 3);
  }
  return view;
}

TEST(Overlap, PairsAgreeWithMarkingEveryByte) {
  std::mt19937 random(7);
  int overlapping = 0, interleaved = 0;
  for (int i = 0; i < 30000; ++i) {
    const TensorView a = random_view(random, 200), b = random_view(random, 200);
    if (a.size() == 0 || b.size() == 0) continue;
    std::set<uintptr_t> bytes;
    for_each_byte(a, [&](uintptr_t address) { bytes.insert(address); });
    bool expected = false;
    for_each_byte(b, [&](uintptr_t address) { expected = expected || bytes.count(address) > 0; });
    ASSERT_EQ(overlap(a, b), expected) << "draw " << i;
    ASSERT_EQ(overlap(b, a), expected) << "draw " << i;
    ByteRange range_a, range_b;
    ASSERT_TRUE(byte_range(a, &range_a) && byte_range(b, &range_b));
    overlapping += expected;
    interleaved += range_a.meets(range_b) && !expected;
  }
  EXPECT_GT(overlapping, 1000);
  EXPECT_GT(interleaved, 1000);
}

TEST(Overlap, OneTensorAgreesWithMarkingEveryByte) {
  std::mt19937 random(8);
  int overlapping = 0, distinct = 0;
  for (int i = 0; i < 30000; ++i) {
    const TensorView view = random_view(random, 0);
    std::set<uintptr_t> bytes;
    bool expected = false;
    for_each_byte(view,
                  [&](uintptr_t address) { expected = expected || !bytes.insert(address).second; });
    ASSERT_EQ(overlaps_itself(view), expected) << "draw " << i;
    (expected ? overlapping : distinct) += view.size() > 1;
  }
  EXPECT_GT(overlapping, 1000);
  EXPECT_GT(distinct, 1000);
}

TEST(Overlap, ByteRangeIsTheFirstAndTheLastByte) {
  std::mt19937 random(9);
  for (int i = 0; i < 3000; ++i) {
    const TensorView view = random_view(random, 100);
    ByteRange range;
    ASSERT_TRUE(byte_range(view, &range));
    if (view.size() == 0) {
      EXPECT_EQ(range.begin, range.end);
      continue;
    }
    uintptr_t first = UINTPTR_MAX, last = 0;
    for_each_byte(view, [&](uintptr_t address) {
      first = std::min(first, address);
      last = std::max(last, address);
    });
    EXPECT_EQ(range.begin, first);
    EXPECT_EQ(range.end, last + 1);
  }
}

TEST(Overlap, RangesThatDoNotFitAreRefused) {
  ByteRange range;
  const TensorView view(memory, DType::kF32, {4, 4});
  EXPECT_TRUE(byte_range(view, &range));
  EXPECT_FALSE(byte_range(view.with_strides({INT64_MAX, 1}), &range));
  EXPECT_FALSE(byte_range(view.with_strides({INT64_MIN, 1}), &range));
  EXPECT_FALSE(byte_range(view.with_strides({int64_t{1} << 59, 1}), &range));
  TensorView high = view;
  high.data = reinterpret_cast<void*>(UINTPTR_MAX - 15);
  EXPECT_FALSE(byte_range(high, &range));
  TensorView low = view.with_strides({-100, 1});
  low.data = reinterpret_cast<void*>(uintptr_t{64});
  EXPECT_FALSE(byte_range(low, &range));
}

// Two layouts that agree in nothing would take a search of 10^12 steps: the answer is "overlap".
TEST(Overlap, GivesUpInTime) {
  const TensorView a =
      TensorView(memory, DType::kF32, {1000, 1000, 1000}).with_strides({1000003, 1009, 7});
  TensorView b =
      TensorView(memory, DType::kF32, {1000, 1000, 1000}).with_strides({1000033, 1013, 11});
  b.data = memory + 2;
  EXPECT_TRUE(overlap(a, b));
}

}  // namespace
}  // namespace gdn
