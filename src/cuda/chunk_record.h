// What the preparation of the chunk operator leaves for its recurrence, in the caller's workspace,
// and the sizes that both kernels and the plans share.
#pragma once

#include <cstdint>

#include "gdn/plan.h"
#include "problem.h"

namespace gdn::cuda {

constexpr int64_t kF32Columns = 32;         // V columns of a block, float32
constexpr int64_t kTensorCoreColumns = 64;  // tensor cores: four warps of 16
constexpr int kRecordChunk = 64;            // tokens

// Vectors of a chunk and value head, float32 [kRecordChunk] each.
enum class RecordVector : int {
  kStateToResidual,  // of S k_i in the residual: exp(G_i) |k_i|^-1
  kStateToOutput,    // of S q_i in the output
  kSolved,           // power of two that row i of T was divided by
  kOutput,           // the same of row i of P
  kToState,          // of v_new_i in the state: exp(G_C - G_i) |k_i|^-1
  kDecay,            // all elements: exp(G_C)
  kCount,
};

// Where they lie. Rows of k, q, T and P are float16, each times a power of two that brings its
// largest element to [1, 2); T (with beta in its columns) is a sum of two, high and low.
struct ChunkRecords {
  int64_t chunks;  // numbers of ChunkTable
  int64_t heads, value_heads, K;

  explicit ChunkRecords(const Shape& shape)
      : chunks(chunk_bound(shape)),
        heads(shape.heads),
        value_heads(shape.value_heads),
        K(shape.K) {}

  // At least ChunkTable::bound(), from what a plan knows.
  static int64_t chunk_bound(const Shape& shape) {
    return shape.tokens / kRecordChunk + shape.sequences + 1;
  }

  static constexpr int64_t kMatrixBytes = kRecordChunk * kRecordChunk * 2;
  static constexpr int64_t kVectorBytes = kRecordChunk * 4;
  static constexpr int64_t kHeadBytes =
      3 * kMatrixBytes + static_cast<int64_t>(RecordVector::kCount) * kVectorBytes;

  GDN_HOST_DEVICE int64_t rows_bytes() const { return kRecordChunk * K * 2; }
  GDN_HOST_DEVICE int64_t group_bytes() const { return 2 * rows_bytes(); }  // k, then q
  GDN_HOST_DEVICE int64_t head_begin() const { return chunks * heads * group_bytes(); }
  GDN_HOST_DEVICE int64_t bytes() const { return head_begin() + chunks * value_heads * kHeadBytes; }
};

}  // namespace gdn::cuda
