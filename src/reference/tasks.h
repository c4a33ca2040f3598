// Tasks on an executor whose first failure comes out in the calling thread, since a task itself may
// not throw.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

#include "cpu/fpmode.h"
#include "gdn/executor.h"

namespace gdn::reference {

inline int worker_count(const Executor* executor) { return executor ? executor->max_workers() : 1; }

// Runs body(task, worker) for every task in [0, count), on the calling thread if there is no
// executor. Rethrows the first exception that a body threw; tasks not yet begun then do nothing.
// Denormals are kept, whatever the mode of the thread.
template <class Body>
void run_tasks(Executor* executor, int64_t count, const Body& body) {
  if (executor == nullptr) {
    const cpu::KeepDenormals mode;
    for (int64_t task = 0; task < count; ++task) body(task, 0);
    return;
  }
  struct Closure {
    const Body& body;
    std::atomic<bool> failed{false};
    std::exception_ptr failure{};
  } closure{body};
  executor->run(
      count,
      [](void* p, int64_t task, int worker) {
        auto& c = *static_cast<Closure*>(p);
        if (c.failed.load()) return;
        const cpu::KeepDenormals mode;
        try {
          c.body(task, worker);
        } catch (...) {
          if (!c.failed.exchange(true)) c.failure = std::current_exception();
        }
      },
      &closure);
  if (closure.failure) std::rethrow_exception(closure.failure);
}

}  // namespace gdn::reference
