// What the plans of the chunk operator need to know of its kernels.
#include <algorithm>

#include "cuda/chunk_record.h"
#include "cuda/kernels.h"

namespace gdn::cuda {

int64_t chunk_columns(const Shape& shape, bool tensor_cores) {
  return tensor_cores ? std::min<int64_t>(shape.V, kTensorCoreColumns) : kF32Columns;
}

bool chunk_fits_tensor_cores(const Shape& shape) {
  const auto fits = [](int64_t dim) { return dim == 64 || dim == 128; };
  return fits(shape.K) && fits(shape.V);
}

size_t chunk_workspace(const Shape& shape) {
  return static_cast<size_t>(ChunkRecords(shape).bytes());
}

}  // namespace gdn::cuda
