// The kernels of the chunk operator on Hopper.
#pragma once

#include <cstddef>

#include "cuda/kernels.h"
#include "cuda/tensor_map.h"

namespace gdn::cuda::sm90 {

// Of what the recurrence reads by the copy engine, if it can.
struct TokenMaps {
  CUtensorMap k, q, v;
  bool given = false;
};

// Fills the records (chunk_sm90_record.h) of all chunks: that of chunk `number` of ChunkTable and a
// value head is record number * HV + value_head of the workspace. K of 64 or 128, 16-bit elements.
Status prepare(const DeltaRuleProblem& problem, std::byte* workspace, const Stream& stream);

// From the records to outputs and states.
Status walk(const DeltaRuleProblem& problem, const std::byte* workspace, const Stream& stream);

}  // namespace gdn::cuda::sm90
