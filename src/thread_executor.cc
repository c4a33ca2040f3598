#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "gdn/executor.h"

namespace gdn {
namespace {

class ThreadExecutor final : public Executor {
 public:
  explicit ThreadExecutor(int threads) {
    try {
      for (int worker = 1; worker < threads; ++worker) {
        threads_.emplace_back([this, worker] { serve(worker); });
      }
    } catch (...) {
      stop();
      throw;
    }
  }
  ~ThreadExecutor() override { stop(); }

  int max_workers() const override { return static_cast<int>(threads_.size()) + 1; }

  void run(int64_t count, Task task, void* closure) override {
    const std::lock_guard<std::mutex> turn(turn_);
    // No more threads than there are tasks beside the caller's own.
    const auto helpers =
        static_cast<int>(std::min<int64_t>(static_cast<int64_t>(threads_.size()), count - 1));
    if (helpers <= 0) {
      for (int64_t i = 0; i < count; ++i) task(closure, i, 0);
      return;
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      count_ = count;
      task_ = task;
      closure_ = closure;
      next_.store(0, std::memory_order_relaxed);
      invited_ = helpers;
    }
    for (int i = 0; i < helpers; ++i) wake_.notify_one();
    work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    invited_ = 0;  // who has not come by now finds nothing to do
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void work(int worker) {
    for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      task_(closure_, task, worker);
    }
  }

  void serve(int worker) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return stopping_ || invited_ > 0; });
      if (stopping_) return;
      --invited_;
      ++busy_;
      lock.unlock();
      work(worker);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  void stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  std::mutex turn_;   // one run() at a time
  std::mutex mutex_;  // guards what follows, next_ aside
  std::condition_variable wake_, done_;
  std::atomic<int64_t> next_{0};
  int64_t count_ = 0;
  Task task_ = nullptr;
  void* closure_ = nullptr;
  int invited_ = 0;  // threads that may still join the call
  int busy_ = 0;     // threads that have
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Executor> make_thread_executor(int threads) {
  if (threads <= 0) threads = std::max(1u, std::thread::hardware_concurrency());
  return std::make_unique<ThreadExecutor>(threads);
}

}  // namespace gdn
