// The two kernels of the chunk operator on tensor cores.
#pragma once

#include <cstddef>

#include "cuda/kernels.h"

namespace gdn::cuda {

// Fills the records of all chunks.
Status prepare_chunks(const DeltaRuleProblem& problem, std::byte* workspace, const Stream& stream);

// From the records to outputs and states.
Status walk_chunks(const DeltaRuleProblem& problem, const Device& device,
                   const std::byte* workspace, const Stream& stream);

}  // namespace gdn::cuda
