// The CUDA backend's table and its plans.
#pragma once

#include "backend.h"
#include "cuda/device.h"

namespace gdn::cuda {

extern const Backend kBackend;

// The plan of a shape on a device: backend.cc asks for the current one, tests for any. `kernel` is
// forced where it is not empty.
Status plan_for(const Shape& shape, const Device& device, std::string_view kernel, Plan* plan);

}  // namespace gdn::cuda
