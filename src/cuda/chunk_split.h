// How the chunk operator on Hopper splits long sequences (chunk_sm90_segments.h). Pure.
#pragma once

#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_segments.h"
#include "cuda/device.h"
#include "gdn/plan.h"

namespace gdn::cuda::sm90 {

// ContextSplit::kFixed: value heads up to which sequences are split, and chunks of every segment.
constexpr int64_t kFixedHeads = 16, kFixedSegment = 32;

// checkpoints: whether the call stores them, which a second walk alone can.
Segments choose_segments(const Shape& shape, const Device& device, const Parts& parts,
                         bool checkpoints);

}  // namespace gdn::cuda::sm90
