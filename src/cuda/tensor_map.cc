#include "cuda/tensor_map.h"

#include <cuda_runtime_api.h>

namespace gdn::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found at run time: nothing links with the driver.
Encode encode() {
  static const Encode function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    constexpr unsigned kSince = 12000;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                               kSince, cudaEnableDefault, &result);
    if (error != cudaSuccess) cudaGetLastError();
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(found)
               : nullptr;
  }();
  return function;
}

}  // namespace

bool make_tensor_map(const TokenTensor& x, int64_t batch, int64_t tokens, int64_t heads, int64_t d,
                     CUtensorMap* map) {
  constexpr int kAxes = 4;
  const int64_t extents[kAxes] = {d, heads, tokens, batch};
  const int64_t strides[kAxes - 1] = {x.head_stride, x.token_stride, x.batch_stride};
  cuuint64_t sizes[kAxes], bytes[kAxes - 1];
  for (int i = 0; i < kAxes; ++i) {
    if (extents[i] < 1 || extents[i] > UINT32_MAX) return false;
    sizes[i] = static_cast<cuuint64_t>(extents[i]);
  }
  for (int i = 0; i + 1 < kAxes; ++i) {
    // The stride of an axis of one element means nothing.
    const int64_t stride = extents[i + 1] > 1 ? strides[i] * 2 : d * 2;
    if (stride <= 0 || stride % 16 != 0 || stride >= int64_t{1} << 40) return false;
    bytes[i] = static_cast<cuuint64_t>(stride);
  }
  if (reinterpret_cast<uintptr_t>(x.data) % 16 != 0 || encode() == nullptr) return false;
  const cuuint32_t box[kAxes] = {64, 1, 64, 1}, steps[kAxes] = {1, 1, 1, 1};
  return encode()(map, CU_TENSOR_MAP_DATA_TYPE_UINT16, kAxes, x.data, sizes, bytes, box, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace gdn::cuda
