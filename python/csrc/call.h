// What every operator's kernel does around its call of the library: threads from PyTorch's pool; on
// a GPU the stream and the workspace; options from their names, a Status that is not ok to an
// exception with its message.
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

// Makes a GPU ready for a call of this thread, and says in the context what is the GPU's. What has
// kernels for GPUs sets it when it is loaded (cuda.cc); until then no call has tensors there.
// Throws.
inline void (*begin_on_gpu)(int32_t gpu, Context* context) = nullptr;

// The context of a call. On a GPU that one is the current device as long as this lives.
class Call {
 public:
  // `kernel` outlives it.
  Call(Place place, const std::optional<Text>& kernel);
  ~Call() { end(); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  Context& context() { return context_; }
  // Device memory from PyTorch's allocator: of the current stream or the graph that is captured, to
  // which it returns with the end of the call, behind its kernels.
  void take_workspace(size_t bytes);

 private:
  void end();

  TorchExecutor executor_;
  Context context_;
  Place place_;
  DeviceGuardHandle guard_ = nullptr;  // where another device was current
  Tensor workspace_;
};

// Throws std::runtime_error with the message of a Status that is not ok; last_status() then tells
// its code.
void require(const Status& status);
[[noreturn]] void fail(StatusCode code, const std::string& message);

// A function of gdn/ops.h on tensors at `place`.
template <class Args>
void run(Status (*operation)(Context&, const Args&), const Args& args, Place place,
         const std::optional<Text>& kernel) {
  Call call(place, kernel);
  if (place.on_gpu()) {  // where the library allocates nothing
    Plan planned;
    require(plan(call.context(), args, &planned));
    call.take_workspace(planned.workspace_bytes);
  }
  require(operation(call.context(), args));
}

// Options by name; `op` begins the message.
StateLayout layout_named(const char* op, std::string_view name);
Compute compute_named(const char* op, std::string_view name);
ContextSplit context_split_named(const char* op, std::string_view name);
SolveMethod method_named(const char* op, std::string_view name);

}  // namespace gdn::torch_binding
