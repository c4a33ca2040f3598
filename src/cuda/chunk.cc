// The chunk operator: what its plans need to know of its kernels, and the two on tensor cores.
#include <algorithm>
#include <atomic>

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

std::atomic<int64_t> sm90_record_bytes{int64_t{512} << 20};

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

// As many chunks to a part as a buffer holds. Fewer would hide more of the preparation behind the
// walk, but the two slow each other down, and a part costs some 10 microseconds.
sm90::Parts sm90_parts(const Shape& shape) {
  const int64_t chunks = ChunkRecords::chunk_bound(shape);
  const int64_t of_a_chunk =
      sm90::Records{1, shape.value_heads, shape.heads, shape.K, shape.V}.part_bytes();
  return {chunks, std::clamp<int64_t>(sm90_record_bytes / of_a_chunk, 1, chunks)};
}

sm90::Records sm90_records(const Shape& shape, const sm90::Parts& parts) {
  return {parts.of_one, shape.value_heads, shape.heads, shape.K, shape.V};
}

}  // namespace

size_t chunk_sm90_workspace(const Shape& shape) {
  const sm90::Parts parts = sm90_parts(shape);
  return static_cast<size_t>(sm90_records(shape, parts).bytes(parts));
}

Status chunk_sm90(const DeltaRuleProblem& problem, const Device& device, std::byte* workspace,
                  const Stream& stream) {
  const sm90::Parts parts = sm90_parts(problem.shape);
  const sm90::Records records = sm90_records(problem.shape, parts);
  const sm90::TokenMaps maps = sm90::token_maps(problem);
  Status status;
  for (int64_t i = 0; i < parts.count() && status.ok(); ++i) {
    const int64_t first = i * parts.of_one;
    const sm90::Part part{first, std::min(first + parts.of_one, parts.chunks), i,
                          i + 1 == parts.count()};
    status = sm90::prepare(problem, device, records, part, workspace, stream);
    if (status.ok()) status = sm90::walk(problem, maps, records, part, workspace, stream);
  }
  return status;
}

}  // namespace gdn::cuda
