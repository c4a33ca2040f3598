// The chunk operator: what its plans need to know of its kernels, and the two on tensor cores.
#include <algorithm>
#include <cmath>

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

// How many chunks a part has (chunk_sm90_record.h). With one sequence: a part costs some 6
// microseconds in launches and in filling and draining the walk, and the preparation of the first
// part, which nothing hides, some 0.02 a chunk and value head; the sum is least at a square root.
// With more: so many sequences that their blocks fill the GPU.
sm90::Parts sm90_parts(const Shape& shape, const Device& device) {
  constexpr int64_t kLeast = 32;
  const int64_t chunks = ChunkRecords::chunk_bound(shape);
  const int64_t sequences = std::max<int64_t>(1, shape.sequences);
  const auto by_cost = static_cast<int64_t>(
      std::sqrt(300.0 * static_cast<double>(chunks) / static_cast<double>(shape.value_heads)));
  const int64_t of_sequence = (chunks + sequences - 1) / sequences;
  const int64_t blocks = shape.value_heads * (shape.V / kTensorCoreColumns);
  const int64_t at_once = std::max<int64_t>(1, device.multiprocessors / blocks);
  const int64_t of_one = sequences == 1 ? by_cost : std::max(by_cost, at_once * of_sequence);
  return {chunks, std::clamp(of_one, kLeast, std::max(kLeast, chunks))};
}

sm90::Records sm90_records(const Shape& shape, const sm90::Parts& parts) {
  return {std::min(parts.of_one, parts.chunks), shape.value_heads, shape.heads, shape.K, shape.V};
}

}  // namespace

size_t chunk_sm90_workspace(const Shape& shape, const Device& device) {
  const sm90::Parts parts = sm90_parts(shape, device);
  return static_cast<size_t>(sm90_records(shape, parts).bytes(parts));
}

Status chunk_sm90(const DeltaRuleProblem& problem, const Device& device, std::byte* workspace,
                  const Stream& stream) {
  const sm90::Parts parts = sm90_parts(problem.shape, device);
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
