// The CUDA backend, in a library of its own (CMake target gdn::cuda), so that the core needs no
// CUDA: kernels for NVIDIA GPUs of compute capability 8.0 and later.
#pragma once

#include "gdn/status.h"

namespace gdn {

// Adds the backend: from then on every operator takes tensors whose device is DeviceType::kCUDA,
// on the current device and on Context::stream. Not to be called while operators run; a second call
// does nothing. kUnsupported where there is no room for another backend. That the machine has no
// GPU is no error here: the kernels are then listed as not supported.
Status install_cuda();

}  // namespace gdn
