// The operators on NVIDIA GPUs: what libgdn_torch_cuda.so has and libgdn_torch.so has not. The
// kernels that PyTorch calls are the same; they find the stream here, and the backend installed.
#include "gdn/cuda.h"

#include <array>
#include <atomic>
#include <string>

#include "call.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "registration.h"
#include "torch_cuda.h"

namespace gdn::torch_binding {
namespace {

constexpr int kMaxGpus = 64;  // in one process; PyTorch's own limit is 128

// Where the kernels say that an index was out of range, for each GPU; set once by whoever asks.
std::array<std::atomic<int32_t*>, kMaxGpus> flags{};

// Makes a GPU the current one of the CUDA runtime in this object, which is another than PyTorch's:
// in a thread without a context the two could differ.
Status set_device(int32_t gpu) {
  const cudaError_t error = cudaSetDevice(gpu);
  if (error != cudaSuccess) cudaGetLastError();  // reported here, and not again by the next call
  return cuda::status_of(error);
}

void begin(int32_t gpu, Context* context) {
  if (const Status status = set_device(gpu); !status.ok()) {
    fail(status.code(), "gdn: " + std::string(status.message()));
  }
  require_ok(aoti_torch_get_current_cuda_stream(gpu, &context->stream), "the current stream");
  if (gpu < kMaxGpus) context->out_of_range = flags[gpu].load(std::memory_order_relaxed);
}

// _out_of_range_flag(Tensor flag) -> (): int32 [1]; the caller keeps it for good.
void out_of_range_flag(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tensor flag = in.tensor();
  const Place place = in.place("gdn.out_of_range");
  if (place.gpu >= kMaxGpus) {
    fail(StatusCode::kUnsupported,
         "gdn.out_of_range: the device is cuda:" + std::to_string(place.gpu) +
             ", expected one below cuda:" + std::to_string(kMaxGpus));
  }
  flags[place.gpu].store(static_cast<int32_t*>(flag.view().data), std::memory_order_relaxed);
}

// _gpu_status(int gpu) -> str: why the kernels do not run there; empty where they do.
void gpu_status(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const int64_t gpu = in.integer();
  DeviceGuardHandle guard = nullptr;
  require_ok(aoti_torch_create_device_guard(static_cast<int32_t>(gpu), &guard), "a device guard");
  cuda::Device device;
  Status status = set_device(static_cast<int32_t>(gpu));
  if (status.ok()) status = cuda::current_device(&device);
  aoti_torch_delete_device_guard(guard);
  std::string reason;
  if (!status.ok()) {
    reason = status.message();
  } else if (!device.supported()) {
    reason = "compute capability " + std::to_string(device.major) + "." +
             std::to_string(device.minor) + ", expected 8.0 or later";
  }
  stack[0] = result(reason);
}

}  // namespace
}  // namespace gdn::torch_binding

using namespace gdn::torch_binding;

STABLE_TORCH_LIBRARY_FRAGMENT(gdn, library) {
  library.def("_gpu_status(int gpu) -> str");
  library.def("_out_of_range_flag(Tensor flag) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gdn, CUDA, library) {
  // The table of backends is new: there is room.
  (void)gdn::install_cuda();
  begin_on_gpu = begin;
  implement_for_device(library);
  library.impl("_out_of_range_flag", out_of_range_flag);
}

STABLE_TORCH_LIBRARY_IMPL(gdn, CompositeExplicitAutograd, library) {
  library.impl("_gpu_status", gpu_status);
}
