// The kernel of the usual decode, beside the general one of recurrent.cu.
#pragma once

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "gdn/status.h"
#include "problem.h"

namespace gdn::cuda {

// Whether all tiles are whole and all vectors aligned, the states are of one dtype, every sequence
// has one (no has_initial_state, and no column of slots to choose from), the last one alone is
// stored, and no stride is large. The choice changes no bit.
bool is_usual(const DeltaRuleProblem& problem);

// For a problem of which is_usual() holds.
Status recurrent_usual(const DeltaRuleProblem& problem, const Device& device, const Stream& stream);

}  // namespace gdn::cuda
