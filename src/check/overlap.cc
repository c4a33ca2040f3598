#include "check/overlap.h"

#include <algorithm>
#include <cstdlib>

namespace gdn {
namespace {

// Spans stay below this, so that no sum or difference of two overflows.
constexpr int64_t kMaxSpan = int64_t{1} << 60;

struct Axis {
  int64_t stride;    // bytes, > 0
  int64_t min, max;  // of the index, or of the difference of two indices
};

// A sum of axes, the longest stride first.
struct Axes {
  Axis items[2 * TensorView::kMaxRank];
  int count = 0;

  // False when the stride was there already.
  bool add(int64_t stride, int64_t min, int64_t max) {
    int at = 0;
    while (at < count && items[at].stride > stride) ++at;
    if (at < count && items[at].stride == stride) {
      items[at].min += min;
      items[at].max += max;
      return false;
    }
    std::copy_backward(items + at, items + count, items + count + 1);
    items[at] = {stride, min, max};
    ++count;
    return true;
  }
};

// A tensor as runs of `run` bytes that start at `base` plus a sum of axes.
struct Runs {
  uintptr_t base = 0;
  int64_t run = 0;
  Axes axes;
  bool repeats = false;  // an axis of stride 0, or two of one stride
};

Runs runs_of(const TensorView& view) {
  Runs runs;
  runs.base = reinterpret_cast<uintptr_t>(view.data);
  runs.run = size_of(view.dtype);
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] <= 1) continue;
    const int64_t stride = view.strides[i] * size_of(view.dtype);
    // A negative stride counts from the other end.
    if (stride < 0) runs.base -= static_cast<uintptr_t>(-stride * (view.shape[i] - 1));
    if (stride == 0 || !runs.axes.add(std::abs(stride), 0, view.shape[i] - 1)) runs.repeats = true;
  }
  // Contiguous axes make longer runs.
  while (runs.axes.count > 0) {
    const Axis& last = runs.axes.items[runs.axes.count - 1];
    if (last.stride != runs.run) break;
    runs.run *= last.max + 1;
    --runs.axes.count;
  }
  return runs;
}

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }
int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0 ? 1 : 0); }

// Whether a sum of axes falls in [lo, hi].
class Search {
 public:
  explicit Search(const Axes& axes) : axes_(axes) {
    for (int i = axes.count - 1; i >= 0; --i) {
      const Axis& axis = axes.items[i];
      min_[i] = min_[i + 1] + axis.stride * axis.min;
      max_[i] = max_[i + 1] + axis.stride * axis.max;
    }
  }

  // `excluded`: the sum whose indices are all 0 does not count.
  bool finds(int64_t lo, int64_t hi, bool excluded) { return from(0, lo, hi, excluded); }

 private:
  bool from(int i, int64_t lo, int64_t hi, bool zero) {
    if (--budget_ < 0) return true;
    if (i == axes_.count) return !zero && lo <= 0 && 0 <= hi;
    const Axis& axis = axes_.items[i];
    // Where axes nest, the rest spans less than a stride and few indices remain.
    const int64_t first = std::max(axis.min, ceil_div(lo - max_[i + 1], axis.stride));
    const int64_t last = std::min(axis.max, floor_div(hi - min_[i + 1], axis.stride));
    for (int64_t index = first; index <= last; ++index) {
      const int64_t offset = index * axis.stride;
      if (from(i + 1, lo - offset, hi - offset, zero && index == 0)) return true;
      if (budget_ < 0) return true;
    }
    return false;
  }

  const Axes& axes_;
  int64_t min_[2 * TensorView::kMaxRank + 1] = {};
  int64_t max_[2 * TensorView::kMaxRank + 1] = {};
  int budget_ = 10000;  // some ten microseconds
};

}  // namespace

bool byte_range(const TensorView& view, ByteRange* range) {
  *range = {};
  if (view.size() == 0) return true;
  int64_t below = 0;
  int64_t above = size_of(view.dtype);
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] == 1) continue;
    int64_t reach;
    if (__builtin_mul_overflow(view.strides[i], view.shape[i] - 1, &reach)) return false;
    if (__builtin_mul_overflow(reach, size_of(view.dtype), &reach)) return false;
    if (reach <= -kMaxSpan || reach >= kMaxSpan) return false;
    (reach < 0 ? below : above) += reach;
  }
  if (above - below >= kMaxSpan) return false;
  const uintptr_t data = reinterpret_cast<uintptr_t>(view.data);
  if (__builtin_sub_overflow(data, static_cast<uintptr_t>(-below), &range->begin)) return false;
  return !__builtin_add_overflow(data, static_cast<uintptr_t>(above), &range->end);
}

bool overlap(const TensorView& a, const TensorView& b) {
  ByteRange range_a, range_b;
  if (byte_range(a, &range_a) && byte_range(b, &range_b) && !range_a.meets(range_b)) return false;
  const Runs runs_a = runs_of(a);
  const Runs runs_b = runs_of(b);
  // A byte is shared where (offset in a) - (offset in b) is the distance of the bases, give or take
  // the runs. Axes with the same stride are one axis of the difference.
  Axes difference = runs_a.axes;
  for (int i = 0; i < runs_b.axes.count; ++i) {
    difference.add(runs_b.axes.items[i].stride, -runs_b.axes.items[i].max, 0);
  }
  const int64_t distance = static_cast<int64_t>(runs_b.base - runs_a.base);
  return Search(difference)
      .finds(distance - runs_a.run + 1, distance + runs_b.run - 1, /*excluded=*/false);
}

bool overlaps_itself(const TensorView& view) {
  if (view.size() <= 1) return false;
  const Runs runs = runs_of(view);
  if (runs.repeats) return true;
  Axes difference;
  for (int i = 0; i < runs.axes.count; ++i) {
    const Axis& axis = runs.axes.items[i];
    difference.add(axis.stride, -axis.max, axis.max);
  }
  return Search(difference).finds(-(runs.run - 1), runs.run - 1, /*excluded=*/true);
}

}  // namespace gdn
