// Where strided tensors lie in memory: their byte ranges, and whether two of them, or two elements
// of one, share a byte.
#pragma once

#include <cstdint>

#include "gdn/tensor.h"

namespace gdn {

// Bytes [begin, end).
struct ByteRange {
  uintptr_t begin = 0;
  uintptr_t end = 0;

  bool meets(const ByteRange& other) const { return begin < other.end && other.begin < end; }
};

// The range from the first to the last byte of a tensor; empty for one without elements. False
// when it does not fit in an address space. Extents are not negative, at most kMaxRank of them.
bool byte_range(const TensorView& view, ByteRange* range);

// Exact for tensors whose axes nest, as slices of one buffer do; true when a wilder pair of
// layouts takes too long to tell. Both tensors have passed byte_range().
bool overlap(const TensorView& a, const TensorView& b);
bool overlaps_itself(const TensorView& view);

}  // namespace gdn
