// Programmatic dependent launch (compute capability 9.0): a kernel's blocks become resident while
// the one before it on the stream still runs, and wait there for its end. That hides a launch,
// which is as long as the decode of one sequence.
#pragma once

#include "cuda/device.h"

namespace gdn::cuda {

// First in a kernel launched with Launch::early, before any memory is read: waits until the kernel
// before has ended and what it wrote is seen, then lets the next one's blocks in. Every block
// waits, so that the end of a kernel means the end of all before it.
__device__ __forceinline__ void wait_for_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether the code that runs on the device is one in which the kernels wait.
inline bool starts_early(const Device& device) {
#if defined(__CUDA_ARCH_LIST__)
  constexpr int kCompiled[] = {__CUDA_ARCH_LIST__};
  bool waits = false;
  for (int arch : kCompiled) waits = waits || arch == 900;
  return waits && device.major == 9;
#else
  return false;
#endif
}

}  // namespace gdn::cuda
