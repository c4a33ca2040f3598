// Chunks of all sequences in one numbering that needs no sum over the lengths before: sequence n
// has the numbers from first_chunk(n) on, and there is always room, because floor((a + b) / C) + 1
// is at least floor(a / C) + ceil(b / C). Some numbers stay empty, and every sequence has at least
// one.
#pragma once

#include <cstdint>

#include "cuda/resolve.cuh"
#include "problem.h"

namespace gdn::cuda {

struct ChunkTable {
  SequenceTable sequences;
  int64_t tokens;  // of a chunk

  __host__ __device__ int64_t per_row() const {
    const int64_t chunks = (sequences.row_length + tokens - 1) / tokens;
    return chunks > 0 ? chunks : 1;
  }
  // Numbers that may be in use; the one after them is the rows past the last sequence.
  __host__ __device__ int64_t bound() const {
    return sequences.cu_seqlens.given() ? sequences.row_length / tokens + sequences.count
                                        : sequences.count * per_row();
  }
  __device__ int64_t first_chunk(int64_t n) const {
    return sequences.cu_seqlens.given() ? sequences.cu_seqlens.at(n) / tokens + n : n * per_row();
  }
  struct Place {
    int64_t n;      // count: the rows past the last sequence
    int64_t chunk;  // of the sequence
  };
  __device__ Place find(int64_t number) const {
    if (!sequences.cu_seqlens.given()) return {number / per_row(), number % per_row()};
    int64_t low = 0, high = sequences.count;  // first_chunk(low) <= number
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (first_chunk(middle) <= number) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return {low, number - first_chunk(low)};
  }
};

}  // namespace gdn::cuda
