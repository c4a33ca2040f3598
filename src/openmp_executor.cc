#include "gdn/openmp.h"

#include <omp.h>

namespace gdn {
namespace {

class OpenMPExecutor final : public Executor {
 public:
  explicit OpenMPExecutor(int threads) : threads_(threads > 0 ? threads : omp_get_max_threads()) {}

  int max_workers() const override { return threads_; }

  void run(int64_t count, Task task, void* closure) override {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads_)
    for (int64_t i = 0; i < count; ++i) task(closure, i, omp_get_thread_num());
  }

 private:
  int threads_;
};

}  // namespace

std::unique_ptr<Executor> make_openmp_executor(int threads) {
  return std::make_unique<OpenMPExecutor>(threads);
}

}  // namespace gdn
