// Maps of token tensors, by which the copy engine of Hopper moves tiles of 64 tokens and 64
// elements of a head to and from shared memory, in the 128-byte swizzle of wgmma's operands.
#pragma once

#include <cuda.h>

#include "problem.h"

namespace gdn::cuda {

// Fills the map of x [B,T,heads,d], 16-bit elements. False where the copy engine cannot: it wants
// addresses and strides that are multiples of 16 bytes.
bool make_tensor_map(const TokenTensor& x, int64_t batch, int64_t tokens, int64_t heads, int64_t d,
                     CUtensorMap* map);

}  // namespace gdn::cuda
