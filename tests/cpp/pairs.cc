#include "pairs.h"

#include <cstddef>
#include <set>
#include <tuple>

#include "verify/inputs.h"

namespace gdn::tests {
namespace {

using Pair = std::tuple<int, int, int, int>;  // axis, value, later axis, value

class Cover {
 public:
  Cover(const std::vector<int>& sizes, const Possible& possible, uint64_t seed)
      : sizes_(sizes), possible_(possible), random_(seed) {
    for (int a = 0; a < axes(); ++a) {
      for (int b = a + 1; b < axes(); ++b) {
        for (int i = 0; i < size(a); ++i) {
          for (int j = 0; j < size(b); ++j) {
            if (possible_(with(with(open(), a, i), b, j))) missing_.insert({a, i, b, j});
          }
        }
      }
    }
  }

  std::vector<Draw> run() {
    std::vector<Draw> draws;
    while (!missing_.empty()) {
      // The best of a few tries: fewer draws in all.
      Draw best;
      size_t best_gain = 0;
      for (int attempt = 0; attempt < kTries || best_gain == 0; ++attempt) {
        if (attempt == kMaxTries) return draws;  // the caller's test of the cover says what lacks
        const Draw draw = complete(seed_pair());
        const size_t gain = draw.empty() ? 0 : gain_of(draw);
        if (gain > best_gain) {
          best = draw;
          best_gain = gain;
        }
      }
      for_each_pair(best, [&](const Pair& pair) { missing_.erase(pair); });
      draws.push_back(best);
    }
    return draws;
  }

 private:
  static constexpr int kTries = 8;
  static constexpr int kMaxTries = 1000;

  int axes() const { return static_cast<int>(sizes_.size()); }
  int size(int axis) const { return sizes_[static_cast<size_t>(axis)]; }
  Draw open() const { return Draw(sizes_.size(), kOpen); }
  static Draw with(Draw draw, int axis, int value) {
    draw[static_cast<size_t>(axis)] = value;
    return draw;
  }

  Draw seed_pair() {
    auto it = missing_.begin();
    std::advance(it, random_.below(static_cast<int64_t>(missing_.size())));
    const auto [a, i, b, j] = *it;
    return with(with(open(), a, i), b, j);
  }

  // Gives every open axis the value that covers most; empty where none is possible.
  Draw complete(Draw draw) {
    for (int64_t shuffled : random_.permutation(axes())) {
      const int axis = static_cast<int>(shuffled);
      if (draw[static_cast<size_t>(axis)] != kOpen) continue;
      int best = kOpen;
      int64_t best_gain = -1;
      for (int64_t value : random_.permutation(size(axis))) {
        const Draw next = with(draw, axis, static_cast<int>(value));
        const int64_t gain = gain_of_axis(next, axis);
        if (gain > best_gain && possible_(next)) {
          best = static_cast<int>(value);
          best_gain = gain;
        }
      }
      if (best == kOpen) return {};
      draw[static_cast<size_t>(axis)] = best;
    }
    return draw;
  }

  int64_t gain_of_axis(const Draw& draw, int axis) const {
    int64_t gain = 0;
    for (int other = 0; other < axes(); ++other) {
      const int value = draw[static_cast<size_t>(axis)];
      const int other_value = draw[static_cast<size_t>(other)];
      if (other == axis || other_value == kOpen) continue;
      gain += missing_.contains(axis < other ? Pair{axis, value, other, other_value}
                                             : Pair{other, other_value, axis, value});
    }
    return gain;
  }

  size_t gain_of(const Draw& draw) const {
    size_t gain = 0;
    for_each_pair(draw, [&](const Pair& pair) { gain += missing_.count(pair); });
    return gain;
  }

  template <class Body>
  void for_each_pair(const Draw& draw, const Body& body) const {
    for (int a = 0; a < axes(); ++a) {
      for (int b = a + 1; b < axes(); ++b) {
        body(Pair{a, draw[static_cast<size_t>(a)], b, draw[static_cast<size_t>(b)]});
      }
    }
  }

  const std::vector<int>& sizes_;
  const Possible& possible_;
  verify::Random random_;
  std::set<Pair> missing_;
};

}  // namespace

std::vector<Draw> cover_pairs(const std::vector<int>& axis_sizes, const Possible& possible,
                              uint64_t seed) {
  return Cover(axis_sizes, possible, seed).run();
}

}  // namespace gdn::tests
