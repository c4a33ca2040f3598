// The tasks of a call, cut into a range for each worker. A worker runs its own range first, then
// takes what others have left, one task at a time. So uneven cores and lengths balance, and in the
// next call of the same shape a worker finds in its cache what it left there: states that fit are
// walked twice as fast as when tasks go to whoever comes first.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace gdn {

class TaskRanges {
 public:
  TaskRanges(int64_t tasks, int workers) : count_(std::min(workers, kMost)) {
    for (int i = 0; i < count_; ++i) {
      ranges_[i].next.store(tasks * i / count_, std::memory_order_relaxed);
      ranges_[i].end = tasks * (i + 1) / count_;
    }
  }

  // Runs body(task, worker) until no task is left that nobody has taken.
  template <class Body>
  void work(int worker, const Body& body) {
    for (int i = 0; i < count_; ++i) {
      Range& range = ranges_[(worker + i) % count_];
      for (int64_t task; (task = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;) {
        body(task, worker);
      }
    }
  }

  // Whether the range that has this task ends with it.
  static bool ends_range(int64_t task, int64_t tasks, int workers) {
    const int64_t count = std::min(workers, kMost);
    const int64_t ranges = ((task + 1) * count + tasks - 1) / tasks;  // that begin up to there
    return tasks * ranges / count == task + 1;
  }

 private:
  static constexpr int kMost = 64;  // more workers share ranges
  struct alignas(64) Range {        // a cache line each
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  int count_;
  Range ranges_[kMost];
};

}  // namespace gdn
