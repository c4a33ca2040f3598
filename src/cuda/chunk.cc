// The chunk operator: what its plans need to know of its kernels, and the two on tensor cores.
#include <algorithm>
#include <atomic>

#include "cuda/chunk_beside.h"
#include "cuda/chunk_record.h"
#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/chunk_split.h"
#include "cuda/chunk_stages.h"
#include "cuda/chunk_wide.h"
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

sm90::Layout chunk_sm90_layout(const Shape& shape, const Device& device, bool checkpoints) {
  sm90::Layout layout;
  // As many chunks to a part as a buffer holds. Fewer would hide more of the preparation behind the
  // walk, but the two slow each other down, and a part costs some 10 microseconds.
  const int64_t chunks = ChunkRecords::chunk_bound(shape);
  const auto records = [&](int64_t of_part) {
    return sm90::Records{of_part, shape.value_heads, shape.heads, shape.K, shape.V};
  };
  layout.parts = {chunks,
                  std::clamp<int64_t>(sm90_record_bytes / records(1).part_bytes(), 1, chunks)};
  layout.segments = sm90::choose_segments(shape, device, layout.parts, checkpoints);
  // Where sequences are split by themselves alone, no part may cut them.
  if (layout.segments.split() && shape.context_split == ContextSplit::kFixed) {
    layout.parts.of_one = chunks;
  }
  layout.records = records(layout.parts.of_one);
  const bool once = layout.segments.once;  // one boundary, of one sequence
  layout.boundaries = {once ? 1 : layout.segments.boundaries(layout.parts.of_one),
                       shape.value_heads, shape.K, shape.V, layout.records.bytes(layout.parts)};
  layout.partials = {once ? layout.segments.length : 0, shape.value_heads, shape.K, shape.V,
                     layout.boundaries.offset + layout.boundaries.bytes()};
  layout.beside = sm90::choose_beside(shape, device, layout.parts, layout.segments);
  layout.beside.offset = layout.partials.offset + layout.partials.bytes();
  layout.wide = sm90::choose_wide(shape, device, layout.segments);
  return layout;
}

Status chunk_sm90(const DeltaRuleProblem& problem, const Device& device, std::byte* workspace,
                  const Stream& stream) {
  const sm90::Layout layout =
      chunk_sm90_layout(problem.shape, device, problem.checkpoint_every > 0);
  const sm90::Parts& parts = layout.parts;
  const sm90::TokenMaps maps = sm90::token_maps(problem);
  Status status;
  for (int64_t i = 0; i < parts.count() && status.ok(); ++i) {
    const int64_t first = i * parts.of_one;
    const sm90::Part part{first, std::min(first + parts.of_one, parts.chunks), i,
                          i + 1 == parts.count()};
    const auto walk = [&](sm90::Pass pass) {
      return sm90::walk(problem, maps, layout, part, pass, workspace, stream);
    };
    status = sm90::prepare(problem, device, layout.records, layout.beside, part, workspace, stream);
    if (layout.segments.once) {
      if (status.ok()) status = walk(sm90::Pass::kOnce);
      if (status.ok()) status = sm90::complete(problem, maps, layout, workspace, stream);
      continue;
    }
    if (status.ok()) status = walk(sm90::Pass::kFirst);
    if (!layout.segments.split()) continue;
    if (status.ok()) status = walk(sm90::Pass::kApart);
    if (status.ok()) status = sm90::fold(problem, device, layout, part, workspace, stream);
    if (status.ok()) status = walk(sm90::Pass::kAgain);
  }
  return status;
}

}  // namespace gdn::cuda
