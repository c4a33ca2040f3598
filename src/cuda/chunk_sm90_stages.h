// The kernels of the chunk operator on Hopper: K and V of 64 or 128, 16-bit elements.
#pragma once

#include <cstddef>

#include "cuda/chunk_sm90_layout.h"
#include "cuda/kernels.h"
#include "cuda/tensor_map.h"

namespace gdn::cuda::sm90 {

// Of what the recurrence reads and writes by the copy engine, if it can.
struct TokenMaps {
  CUtensorMap k, q, v, out;
  bool given = false;
};

// Fills the records of a part's chunks. Of all parts but the first it may run before the walk of
// the part before has ended, and ends after it.
Status prepare(const DeltaRuleProblem& problem, const Device& device, const Records& records,
               const Beside& beside, const Part& part, std::byte* workspace, const Stream& stream);

// From the records to outputs and states: of the first segments, which without a split are all;
// with one also what the segments before boundaries do to states, then the fold, then the segments
// after boundaries.
enum class Pass { kFirst, kBefore, kAfter };
Status walk(const DeltaRuleProblem& problem, const TokenMaps& maps, const Layout& layout,
            const Part& part, Pass pass, std::byte* workspace, const Stream& stream);
Status fold(const DeltaRuleProblem& problem, const Device& device, const Layout& layout,
            const Part& part, std::byte* workspace, const Stream& stream);
TokenMaps token_maps(const DeltaRuleProblem& problem);

}  // namespace gdn::cuda::sm90
