// Where threads come from. The library starts none of its own: a call splits its work into tasks
// and hands them to the executor of its Context.
#pragma once

#include <cstdint>
#include <memory>

#include "gdn/export.h"

namespace gdn {

class GDN_API Executor {
 public:
  // task is in [0, count); worker is in [0, max_workers()) and no two tasks that run at the same
  // time see the same worker. Tasks never throw.
  using Task = void (*)(void* closure, int64_t task, int worker);

  virtual ~Executor() = default;
  virtual int max_workers() const = 0;
  // Runs every task once, in any order, and returns when all are done. Tasks differ in length, so
  // they should be handed out one at a time as workers become free. Must not throw once a task has
  // started: the call would report an error after writing. Tasks never call run() themselves.
  virtual void run(int64_t count, Task task, void* closure) = 0;
};

// A pool of `threads` workers, the caller of run() one of them; 0 takes the number of processors.
// Concurrent calls of run() take turns. Throws std::system_error or std::bad_alloc where no thread
// can be started.
GDN_API std::unique_ptr<Executor> make_thread_executor(int threads = 0);

}  // namespace gdn
