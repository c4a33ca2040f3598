// The kernels of the chunk operator on Hopper: K and V of 64 or 128, 16-bit elements.
#pragma once

#include <cstddef>

#include "cuda/chunk_sm90_record.h"
#include "cuda/kernels.h"
#include "cuda/tensor_map.h"

namespace gdn::cuda::sm90 {

// Of what the recurrence reads and writes by the copy engine, if it can.
struct TokenMaps {
  CUtensorMap k, q, v, out;
  bool given = false;
};

// Fills the records of all chunks, by their numbers in ChunkTable.
Status prepare(const DeltaRuleProblem& problem, const Device& device, const Records& records,
               std::byte* workspace, const Stream& stream);

// From the records to outputs and states.
Status walk(const DeltaRuleProblem& problem, const Records& records, std::byte* workspace,
            const Stream& stream);

}  // namespace gdn::cuda::sm90
