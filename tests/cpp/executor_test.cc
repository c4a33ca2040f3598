// Executors run every task once and give no worker to two tasks at a time.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gdn/executor.h"
#ifdef GDN_TEST_OPENMP
#include "gdn/openmp.h"
#endif

namespace gdn::tests {
namespace {

using Make = std::unique_ptr<Executor> (*)(int threads);

class Executors : public testing::TestWithParam<Make> {};

struct Record {
  explicit Record(int64_t count, int workers)
      : runs(static_cast<size_t>(count)), busy(static_cast<size_t>(workers)) {}
  std::vector<std::atomic<int>> runs;
  std::vector<std::atomic<int>> busy;
  std::atomic<int> wrong{0};

  void run(Executor* executor) {
    executor->run(
        static_cast<int64_t>(runs.size()),
        [](void* closure, int64_t task, int worker) {
          auto& record = *static_cast<Record*>(closure);
          if (worker < 0 || worker >= static_cast<int>(record.busy.size())) {
            ++record.wrong;
            return;
          }
          if (record.busy[static_cast<size_t>(worker)]++ != 0) ++record.wrong;
          ++record.runs[static_cast<size_t>(task)];
          if (task % 7 == 0) std::this_thread::yield();
          --record.busy[static_cast<size_t>(worker)];
        },
        this);
  }
  void expect_right() const {
    EXPECT_EQ(wrong, 0);
    for (const auto& count : runs) EXPECT_EQ(count, 1);
  }
};

TEST_P(Executors, RunEveryTaskOnce) {
  for (int threads : {1, 2, 5}) {
    const auto executor = GetParam()(threads);
    ASSERT_EQ(executor->max_workers(), threads);
    for (int64_t count : {0, 1, 2, 3, 100, 1000}) {
      Record record(count, threads);
      record.run(executor.get());
      record.expect_right();
    }
  }
}

// Calls of fewer tasks than workers end before every thread has woken, and the next one begins.
TEST_P(Executors, RunShortCallsInARow) {
  const auto executor = GetParam()(5);
  for (int i = 0; i < 2000; ++i) {
    Record record(i % 4, 5);
    record.run(executor.get());
    record.expect_right();
  }
}

TEST_P(Executors, ServeSeveralCallersAtATime) {
  const auto executor = GetParam()(3);
  std::vector<std::thread> callers;
  std::vector<std::unique_ptr<Record>> records;
  for (int caller = 0; caller < 4; ++caller) {
    for (int i = 0; i < 20; ++i) records.push_back(std::make_unique<Record>(37, 3));
  }
  for (size_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (size_t i = 0; i < 20; ++i) records[caller * 20 + i]->run(executor.get());
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const auto& record : records) record->expect_right();
}

TEST_P(Executors, TakeTheNumberOfProcessorsByDefault) {
  EXPECT_GE(GetParam()(0)->max_workers(), 1);
}

INSTANTIATE_TEST_SUITE_P(Thread, Executors, testing::Values(&make_thread_executor));
#ifdef GDN_TEST_OPENMP
INSTANTIATE_TEST_SUITE_P(OpenMP, Executors, testing::Values(&make_openmp_executor));
#endif

}  // namespace
}  // namespace gdn::tests
