// What every operator's kernel does around its call of the library: threads from PyTorch's pool,
// options from their names, a Status that is not ok to an exception with its message.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "gdn/gdn.h"
#include "stack.h"

namespace gdn::torch_binding {

// The tasks of a call over the threads of at::parallel_for, handed out one at a time. Inside
// another parallel region it works on the calling thread, as at::parallel_for does.
class TorchExecutor final : public Executor {
 public:
  int max_workers() const override;
  void run(int64_t count, Task task, void* closure) override;
};

// A context of this call. `kernel` outlives it.
class Call {
 public:
  explicit Call(const std::optional<Text>& kernel) {
    context_.executor = &executor_;
    if (kernel) context_.kernel = kernel->c_str();
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  Context& context() { return context_; }

 private:
  TorchExecutor executor_;
  Context context_;
};

// Throws std::runtime_error with the message of a Status that is not ok; last_status() then tells
// its code.
void require(const Status& status);
[[noreturn]] void fail(StatusCode code, const std::string& message);

// Options by name; `op` begins the message.
StateLayout layout_named(const char* op, std::string_view name);
Compute compute_named(const char* op, std::string_view name);
SolveMethod method_named(const char* op, std::string_view name);

}  // namespace gdn::torch_binding
