// A backend for host tensors that runs every call on the GPU, through the public API with device
// tensors: what the tests of tests/cpp say of any kernel is then said of the CUDA ones. Each call
// runs twice, the second time as a replayed graph, whose bits must be the same.
#pragma once

namespace gdn::tests {

// Its kernels have the names of the CUDA backend's.
void install_on_device();

}  // namespace gdn::tests
