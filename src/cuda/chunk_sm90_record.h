// What the preparation of the chunk operator on Hopper leaves for its recurrence: a record for each
// chunk of 64 tokens and value head, in the caller's workspace, laid out as shared memory wants it,
// so that one bulk copy brings it there.
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

struct alignas(128) HeadRecord {
  // Matrices [kChunk][kChunk] of float16, in the 128-byte swizzle of wgmma's operands: element
  // (i, j) at byte swizzled(i, j).
  static constexpr int kMatrixBytes = kChunk * kChunk * 2;
  std::byte T_high[kMatrixBytes], T_low[kMatrixBytes], P[kMatrixBytes];
  float residual[kChunk];  // of S k_i in the residual: exp(G_i) kn_i
  float output[kChunk];    // of S q_i in the output: scale exp(G_i) qn_i
  float update[kChunk];    // of v_new_i in the state: exp(G_C - G_i) kn_i / k_power_i
  float k_power[kChunk];   // a power of two: k_i k_power_i is float16 with elements of 2 at most
  float decay;             // exp(G_C)
  float T_power, P_power;  // 2^t, 2^p
};

// The byte of element (row, column) in a matrix of 64 columns of 16 bits.
GDN_HOST_DEVICE constexpr int swizzled(int row, int column) {
  return row * 128 + ((column / 8 ^ row % 8) * 16) + column % 8 * 2;
}

}  // namespace gdn::cuda::sm90
