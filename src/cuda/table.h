// The CUDA backend's table and its plans.
#pragma once

#include "backend.h"
#include "cuda/device.h"

namespace gdn::cuda {

extern const Backend kBackend;

// The plan of a shape on a device: backend.cc asks for the current one, tests for any.
Status plan_for(const Shape& shape, const Device& device, Plan* plan);

}  // namespace gdn::cuda
