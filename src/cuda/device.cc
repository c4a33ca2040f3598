#include "cuda/device.h"

#include "cuda/launch.h"

namespace gdn::cuda {

Status current_device(Device* device) {
  int id = 0;
  cudaError_t error = cudaGetDevice(&id);
  const auto read = [&](int* value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, id);
  };
  read(&device->major, cudaDevAttrComputeCapabilityMajor);
  read(&device->minor, cudaDevAttrComputeCapabilityMinor);
  read(&device->multiprocessors, cudaDevAttrMultiProcessorCount);
  read(&device->shared_bytes_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (error != cudaSuccess) cudaGetLastError();  // reported here, and not again by the next call
  return status_of(error);
}

}  // namespace gdn::cuda
