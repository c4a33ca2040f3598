#include "call.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "registration.h"

namespace gdn::torch_binding {
namespace {

thread_local StatusCode last_code = StatusCode::kOk;

struct Tasks {
  std::atomic<int64_t> next{0};
  int64_t count;
  Executor::Task task;
  void* closure;

  void work(int worker) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      task(closure, i, worker);
    }
  }
};

[[noreturn]] void fail_option(const char* op, const char* argument, std::string_view got,
                              const char* expected) {
  fail(StatusCode::kInvalidArgument, std::string(op) + ": " + argument + " is \"" +
                                         std::string(got) + "\", expected " + expected);
}

}  // namespace

int TorchExecutor::max_workers() const {
  uint32_t threads = 1;
  if (torch_get_num_threads(&threads) != AOTI_TORCH_SUCCESS) return 1;
  return static_cast<int>(std::max<uint32_t>(1, threads));
}

void TorchExecutor::run(int64_t count, Task task, void* closure) {
  Tasks tasks{{0}, count, task, closure};
  const int64_t workers = count > 1 ? std::min<int64_t>(count, max_workers()) : 1;
  if (workers > 1) {
    // A range of workers goes to each thread; all but the first of a range find little left to do.
    const auto serve = [](int64_t begin, int64_t end, void* context) {
      for (int64_t w = begin; w < end; ++w) static_cast<Tasks*>(context)->work(static_cast<int>(w));
    };
    // Should it fail, what it left is done below.
    (void)torch_parallel_for(0, workers, 1, serve, &tasks);
  }
  tasks.work(0);
}

Call::Call(Place place, const std::optional<Text>& kernel) : place_(place) {
  if (kernel) context_.kernel = kernel->c_str();
  if (!place.on_gpu()) {
    context_.executor = &executor_;
    return;
  }
  int32_t current = 0;
  require_ok(aoti_torch_get_current_device_index(&current), "the current device");
  if (current != place.gpu) {
    require_ok(aoti_torch_create_device_guard(place.gpu, &guard_), "a device guard");
  }
  try {
    begin_on_gpu(place.gpu, &context_);
  } catch (...) {
    end();
    throw;
  }
}

void Call::end() {
  if (guard_ != nullptr) aoti_torch_delete_device_guard(guard_);
}

void Call::take_workspace(size_t bytes) {
  if (bytes == 0) return;
  workspace_ = new_tensor({static_cast<int64_t>(bytes)}, aoti_torch_dtype_uint8(), place_);
  context_.workspace = workspace_.view().data;
  context_.workspace_bytes = bytes;
}

void fail(StatusCode code, const std::string& message) {
  last_code = code;
  throw std::runtime_error(message);
}

void require(const Status& status) {
  if (!status.ok()) fail(status.code(), status.message());
}

StateLayout layout_named(const char* op, std::string_view name) {
  if (name == "vk") return StateLayout::kVK;
  if (name == "kv") return StateLayout::kKV;
  fail_option(op, "state_layout", name, "\"vk\" or \"kv\"");
}

Compute compute_named(const char* op, std::string_view name) {
  if (name == "auto") return Compute::kAuto;
  if (name == "float32") return Compute::kF32;
  if (name == "bfloat16") return Compute::kBF16;
  fail_option(op, "compute", name, "\"auto\", \"float32\" or \"bfloat16\"");
}

ContextSplit context_split_named(const char* op, std::string_view name) {
  if (name == "auto") return ContextSplit::kAuto;
  if (name == "fixed") return ContextSplit::kFixed;
  if (name == "off") return ContextSplit::kOff;
  fail_option(op, "context_split", name, "\"auto\", \"fixed\" or \"off\"");
}

SolveMethod method_named(const char* op, std::string_view name) {
  if (name == "exact") return SolveMethod::kExact;
  if (name == "neumann") return SolveMethod::kNeumann;
  fail_option(op, "method", name, "\"exact\" or \"neumann\"");
}

void last_status(StableIValue* stack, uint64_t, uint64_t) {
  stack[0] = encode(static_cast<int64_t>(last_code));
}

}  // namespace gdn::torch_binding
