// The exact context split of the chunk operator on Hopper. A part's chunks of a sequence are walked
// in segments side by side. What a segment does to the state it begins with is affine,
//
//   S -> S M + N,    M [K,K] its transition, N [V,K] its state after a beginning with zero,
//
// so a first pass walks the first segment as it is, and of the others M, the walk of the identity
// with values of zero, and N. A fold from left to right joins them to the states that segments
// begin with. What the outputs of a segment have of that state is linear, too: those of the walk
// from zero lack S Q'^T, where the rows of Q' are the outputs of the walk from the identity. So
// there are two ways to them:
//
//   twice  the first pass leaves out all outputs, and M and N of the last segment. A second one
//          walks the others from the states they begin with.
//   once   the first pass keeps both, and a product a chunk completes them. A shorter way, and more
//          bytes: for two short segments of one sequence, which need no fold either.
#pragma once

#include <cstddef>
#include <cstdint>

#include "problem.h"

namespace gdn::cuda::sm90 {

// In chunks, of a sequence's chunks in a part. first >= length.
struct Segments {
  int64_t first = 0;
  int64_t length = 0;  // of the others; 0: nothing is split
  bool once = false;   // they are walked

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
// begins with [V,K], and of that segment N and M.
struct Boundaries {
  int64_t count = 0;
  int64_t value_heads, K, V;
  int64_t offset = 0;  // bytes of the workspace before them

  GDN_HOST_DEVICE int64_t floats() const { return (2 * V + K) * K; }  // of one
  GDN_HOST_DEVICE int64_t bytes() const { return count * value_heads * floats() * 4; }
  GDN_HOST_DEVICE float* state(std::byte* workspace, int64_t boundary, int64_t head) const {
    return reinterpret_cast<float*>(workspace + offset) +
           (boundary * value_heads + head) * floats();
  }
  GDN_HOST_DEVICE float* from_zero(std::byte* workspace, int64_t boundary, int64_t head) const {
    return state(workspace, boundary, head) + V * K;
  }
  GDN_HOST_DEVICE float* transition(std::byte* workspace, int64_t boundary, int64_t head) const {
    return from_zero(workspace, boundary, head) + V * K;
  }
};

// A segment that is walked once; without tokens if there is none, or none to be worked.
struct PartialPlace {
  int token = 0, batch = 0;  // where it begins in the tensors
  int tokens = 0;
  std::byte* end = nullptr;  // the slot of the state after it
};
// In the workspace, where the segment behind the one boundary is walked once: its place, and of
// each of its chunks and value heads the output of the walk from zero, and Q'.
struct Partials {
  static constexpr int64_t kPlaceBytes = 1024;
  int64_t chunks = 0;
  int64_t value_heads, K, V;
  int64_t offset = 0;  // bytes of the workspace before them

  GDN_HOST_DEVICE int64_t one_bytes() const { return 64 * (V * 4 + K * 2); }
  GDN_HOST_DEVICE int64_t bytes() const {
    return chunks > 0 ? kPlaceBytes + chunks * value_heads * one_bytes() : 0;
  }
  GDN_HOST_DEVICE PartialPlace* place(std::byte* workspace) const {
    return reinterpret_cast<PartialPlace*>(workspace + offset);
  }
  // Tiles of 64 columns in the 128-byte swizzle, from one on.
  GDN_HOST_DEVICE std::byte* queries(std::byte* workspace, int64_t chunk, int64_t head,
                                     int64_t column) const {
    return workspace + offset + kPlaceBytes + (chunk * value_heads + head) * one_bytes() +
           column * 64 * 2;
  }
  // Of 64 columns, float32: a warpgroup's accumulators of their product, four a thread.
  GDN_HOST_DEVICE std::byte* output(std::byte* workspace, int64_t chunk, int64_t head,
                                    int64_t column) const {
    return queries(workspace, chunk, head, K) + column * 64 * 4;
  }
  // To the next chunk's.
  GDN_HOST_DEVICE int64_t stride() const { return value_heads * one_bytes(); }
};

// Where a walk begins: where the segment does, from zero, or from the identity, without values.
enum class Walk { kSegment, kFromZero, kTransition };

}  // namespace gdn::cuda::sm90
