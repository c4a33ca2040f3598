// What the preparation of the chunk operator on Hopper leaves for its recurrence: a record for each
// chunk of 64 tokens and value head, in the caller's workspace, laid out as shared memory wants it,
// so that bulk copies bring it there.
//
// With kn_i = |k_i|^-1 and qn_i = |q_i|^-1 (1 without l2norm), G_i the sum of g up to token i of
// the chunk, D_ij = exp(G_i - G_j) for i >= j, else 0, and scale the operator's:
//
//   T = (I + strict_lower(diag(beta kn) (K K^T o D) diag(kn)))^-1 diag(beta)   = 2^t (high + low)
//   P = scale diag(qn) (Q K^T o D) diag(kn)                                    = 2^p stored
//
// K and Q are the tensors' own elements. Powers of two are 1 unless an element passed float16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "problem.h"

namespace gdn::cuda::sm90 {

constexpr int kChunk = 64;  // tokens

struct RecordVectors {
  float residual[kChunk];  // of S k_i in the residual: exp(G_i) kn_i
  float output[kChunk];    // of S q_i in the output: scale exp(G_i) qn_i
  float update[kChunk];    // of v_new_i in the state: exp(G_C - G_i) kn_i / (power of k_i 2^r)
  float decay;             // exp(G_C) / 2^r
  float T_power, P_power;  // 2^t, 2^p
  float growth;            // 2^r: 1 unless decays grow, by which the state then is over it
};

// The matrices are lower triangular: of float16, in tiles of 16 x 16, those above the diagonal left
// out. Four panels of 16 columns follow one another, panel p its rows from 16 p on, in the 32-byte
// swizzle of wgmma's operands (wgmma.cuh).
struct alignas(128) HeadRecord {
  static constexpr int kTile = 16;
  static constexpr int kTiles = kChunk / kTile;  // of a side
  static constexpr int kTileBytes = kTile * kTile * 2;
  static constexpr int kMatrixBytes = kTiles * (kTiles + 1) / 2 * kTileBytes;
  std::byte T_high[kMatrixBytes], T_low[kMatrixBytes], P[kMatrixBytes];
  RecordVectors vectors;

  // The byte of tile (row, column), column <= row, in a matrix.
  static GDN_HOST_DEVICE constexpr int tile_offset(int row, int column) {
    return (column * kTiles - column * (column - 1) / 2 + row - column) * kTileBytes;
  }
  // The byte of element (row, column) in a tile.
  static GDN_HOST_DEVICE constexpr int in_tile(int row, int column) {
    return row * 32 + (column / 8 ^ row / 4 % 2) * 16 + column % 8 * 2;
  }
};

// k of a chunk and q/k head in float16, times its rows' powers of two, in tiles of 64 columns in
// the 128-byte swizzle. These records follow those of all heads.
template <int K>
struct alignas(128) KeyRecord {
  std::byte k[kChunk * K * 2];
};

// A call is worked in parts of so many chunks of ChunkTable's numbering: while the recurrence walks
// one part, the preparation is at the next. Parts change no bit: a sequence that goes on in the
// next part carries its state there in float32, and at most one does.
struct Parts {
  int64_t chunks;  // of all parts
  int64_t of_one;

  GDN_HOST_DEVICE int64_t count() const { return (chunks + of_one - 1) / of_one; }
};
struct Part {
  int64_t first, end;  // chunk numbers
  int64_t index;
  bool last;
};

// The workspace: records of a part and of the next, and states carried from one to the other.
struct Records {
  int64_t chunks;  // of a part
  int64_t value_heads, heads, K, V;

  GDN_HOST_DEVICE int64_t head_bytes() const {
    return chunks * value_heads * static_cast<int64_t>(sizeof(HeadRecord));
  }
  GDN_HOST_DEVICE int64_t part_bytes() const {
    return head_bytes() + chunks * heads * kChunk * K * 2;
  }
  GDN_HOST_DEVICE int64_t state_bytes() const { return value_heads * V * K * 4; }
  GDN_HOST_DEVICE int64_t bytes(const Parts& parts) const {
    return parts.count() > 1 ? 2 * (part_bytes() + state_bytes()) : part_bytes();
  }

  // Of a chunk by its number.
  GDN_HOST_DEVICE HeadRecord* head(std::byte* workspace, const Part& part, int64_t number,
                                   int64_t value_head) const {
    return reinterpret_cast<HeadRecord*>(workspace + part.index % 2 * part_bytes()) +
           (number - part.first) * value_heads + value_head;
  }
  template <int kK>
  GDN_HOST_DEVICE KeyRecord<kK>* keys(std::byte* workspace, const Part& part, int64_t number,
                                      int64_t head) const {
    return reinterpret_cast<KeyRecord<kK>*>(workspace + part.index % 2 * part_bytes() +
                                            head_bytes()) +
           (number - part.first) * heads + head;
  }
  // [V,K] float32: the state of a value head carried out of a part.
  GDN_HOST_DEVICE float* carried_state(std::byte* workspace, int64_t part_index,
                                       int64_t value_head) const {
    return reinterpret_cast<float*>(workspace + 2 * part_bytes() + part_index % 2 * state_bytes()) +
           value_head * V * K;
  }
};

}  // namespace gdn::cuda::sm90
