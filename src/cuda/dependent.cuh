// Programmatic dependent launch (compute capability 9.0): a kernel's blocks become resident while
// the one before it on the stream still runs, and wait there for its end. That hides a launch,
// which is as long as the decode of one sequence.
#pragma once

#include "cuda/device.h"

namespace gdn::cuda {

// The rules of a kernel that is launched with Launch::early:
//   - Usually it begins with wait_for_kernel_before(), in every thread. Then it keeps the others.
//   - Before its wait it may read what was complete when it was let in: what the kernel before had
//     waited for by then, or what that one may read before its own wait; and what that one wrote
//     before it raised a flag (hopper.cuh) that this one has found raised, and that was lowered
//     before this one was let in. It may write what no kernel that may still run reads or writes. A
//     prefetch is no read, nor is a load of which only a prefetch depends and whose value is read
//     again after the wait.
//   - It waits in every thread that reads or writes anything else, unless that comes behind a
//     barrier of another that has waited; and where there is none, in one thread of one block, at
//     the latest at its end: so the end of a kernel is the end of all before it, and who waits for
//     the last one has waited for all.
//   - It lets the next one in after its wait: that is what the next may read before its own relies
//     on. Earlier only where the next is known, and reads before its wait nothing but what the
//     second rule allows this one to.

// Until the kernel before has ended and what it wrote is seen.
__device__ __forceinline__ void wait_for_memory_of_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel begins once every block has called this or ended.
__device__ __forceinline__ void let_next_kernel_in() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_kernel_before() {
  wait_for_memory_of_kernel_before();
  let_next_kernel_in();
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
