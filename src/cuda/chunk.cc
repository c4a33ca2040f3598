// The chunk operator: what its plans need to know of its kernels, and the two on tensor cores.
#include <algorithm>

#include "cuda/chunk_record.h"
#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/chunk_stages.h"
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

Status chunk_tensor_cores(const DeltaRuleProblem& problem, const Device& device,
                          std::byte* workspace, const Stream& stream) {
  Status status = prepare_chunks(problem, workspace, stream);
  if (status.ok()) status = walk_chunks(problem, device, workspace, stream);
  return status;
}

namespace {
sm90::Records sm90_records(const Shape& shape) {
  return {ChunkRecords::chunk_bound(shape), shape.value_heads, shape.heads, shape.K};
}
}  // namespace

size_t chunk_sm90_workspace(const Shape& shape) {
  return static_cast<size_t>(sm90_records(shape).bytes());
}

Status chunk_sm90(const DeltaRuleProblem& problem, const Device& device, std::byte* workspace,
                  const Stream& stream) {
  const sm90::Records records = sm90_records(problem.shape);
  Status status = sm90::prepare(problem, device, records, workspace, stream);
  if (status.ok()) status = sm90::walk(problem, records, workspace, stream);
  return status;
}

}  // namespace gdn::cuda
