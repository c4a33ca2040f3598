// The exact context split of the chunk operator on Hopper. A part's chunks of a sequence are walked
// in segments side by side. What a segment does to the state it begins with is affine,
//
//   S -> S M + N,    M [K,K] its transition, N [V,K] its state after a beginning with zero,
//
// so a first pass walks the first segment as it is, and of the others (but the last) M, the walk of
// the identity with values of zero, and N. A fold from left to right joins them to the states that
// segments begin with. From these a second pass walks the others, and writes the outputs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "problem.h"

namespace gdn::cuda::sm90 {

// In chunks, of a sequence's chunks in a part. first >= length.
struct Segments {
  int64_t first = 0;
  int64_t length = 0;  // of the others; 0: nothing is split

  GDN_HOST_DEVICE bool split() const { return length > 0; }
  GDN_HOST_DEVICE int64_t count(int64_t chunks) const {
    return length == 0 || chunks <= first ? 1 : 1 + (chunks - first + length - 1) / length;
  }
  GDN_HOST_DEVICE int64_t begin(int64_t segment) const {
    return segment == 0 ? 0 : first + (segment - 1) * length;
  }
  // Boundaries between segments have one numbering in a part, as chunks have (chunk_table.cuh):
  // those of a sequence whose chunks begin at chunk `at` of the part have the numbers from
  // at / length on, and there are `boundaries` at most.
  GDN_HOST_DEVICE int64_t first_boundary(int64_t at) const { return at / length; }
  GDN_HOST_DEVICE int64_t boundaries(int64_t chunks_of_part) const {
    return split() ? chunks_of_part / length : 0;
  }
};

// In the workspace, of every boundary and value head, float32: the state that the segment after it
// begins with [V,K], which the first pass leaves as N of the segment before it, and M of that.
struct Boundaries {
  int64_t count = 0;
  int64_t value_heads, K, V;
  int64_t offset = 0;  // bytes of the workspace before them

  GDN_HOST_DEVICE int64_t bytes() const { return count * value_heads * (V + K) * K * 4; }
  GDN_HOST_DEVICE float* state(std::byte* workspace, int64_t boundary, int64_t head) const {
    return reinterpret_cast<float*>(workspace + offset) +
           (boundary * value_heads + head) * (V + K) * K;
  }
  GDN_HOST_DEVICE float* transition(std::byte* workspace, int64_t boundary, int64_t head) const {
    return state(workspace, boundary, head) + V * K;
  }
};

// What a walk is there for: outputs, and the state after them; that state alone, from zero; or a
// transition.
enum class Walk { kOutputs, kState, kTransition };

}  // namespace gdn::cuda::sm90
