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

// From the records to outputs and states, of a part. First segments, which without a split are all.
// With one (chunk_sm90_segments.h) also what the others do to states; a fold; and the others again,
// from the states that they begin with. Or, of bfloat16 tensors without checkpoints, both kinds
// with outputs in one pass, and what completes them.
enum class Pass { kFirst, kApart, kAgain, kOnce };
Status walk(const DeltaRuleProblem& problem, const TokenMaps& maps, const Layout& layout,
            const Part& part, Pass pass, std::byte* workspace, const Stream& stream);
Status fold(const DeltaRuleProblem& problem, const Device& device, const Layout& layout,
            const Part& part, std::byte* workspace, const Stream& stream);
Status complete(const DeltaRuleProblem& problem, const TokenMaps& maps, const Layout& layout,
                std::byte* workspace, const Stream& stream);
TokenMaps token_maps(const DeltaRuleProblem& problem);

}  // namespace gdn::cuda::sm90
