// CUDA errors as Status, and the one way to launch a kernel.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "gdn/status.h"

namespace gdn::cuda {

// The message starts after "gdn.<op>: ".
inline Status status_of(cudaError_t error) {
  if (error == cudaSuccess) return {};
  return {error == cudaErrorMemoryAllocation ? StatusCode::kOutOfMemory : StatusCode::kDeviceError,
          std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error)};
}

struct Launch {
  int64_t blocks = 1;
  int threads = 128;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
  bool early = false;  // before the kernel before it has ended (dependent.cuh)
  int cluster = 1;     // blocks that run together (hopper.cuh); divides `blocks`
};

// A grid of one axis, which has room for 2^31 - 1 blocks; of none nothing is launched.
template <class... Parameters>
Status launch(void (*kernel)(Parameters...), const Launch& how, const Parameters&... parameters) {
  if (how.blocks <= 0) return {};
  if (how.blocks > INT32_MAX) {
    return {StatusCode::kUnsupported,
            "the call has " + std::to_string(how.blocks) + " blocks, expected less than 2^31"};
  }
  constexpr size_t kWithoutOptIn = 48 * 1024;
  if (how.shared_bytes > kWithoutOptIn) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(how.shared_bytes));
    if (error != cudaSuccess) return status_of(error);
  }
  void* arguments[] = {const_cast<void*>(static_cast<const void*>(&parameters))...};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(how.blocks));
  config.blockDim = dim3(static_cast<unsigned>(how.threads));
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = how.stream;
  cudaLaunchAttribute attributes[2];
  config.attrs = attributes;
  if (how.early) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (how.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(how.cluster);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  }
  const cudaError_t error =
      cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments);
  if (error != cudaSuccess) cudaGetLastError();  // reported here, and not again by the next call
  return status_of(error);
}

}  // namespace gdn::cuda
