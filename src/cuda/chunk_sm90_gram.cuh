// The preparation of the chunk operator on Hopper, of a q/k head: its rows, their Gram matrices and
// norms, and k in float16.
#pragma once

#include <type_traits>

#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_team.cuh"
#include "cuda/element.cuh"
#include "cuda/mma.cuh"
#include "cuda/wgmma.cuh"
#include "problem.h"

namespace gdn::cuda::sm90 {

// --- Loads

// Rows of k or q of the chunk to shared memory, zeros past the end; a thread has 16 bytes of a row.
template <class T, int K>
struct RowLoader {
  static constexpr int kParts = K / 8;
  static constexpr int kStep = kTeamThreads / kParts;  // rows at once

  const Sequence& s;
  int64_t t0, head;
  int rows;  // that exist

  __device__ __forceinline__ void start(const TokenTensor& x, uint32_t tile) const {
    const int part = team_thread() % kParts;
    const int first = team_thread() / kParts;
    const std::byte* from = x.at(s, t0 + first, head) + part * 16;
    const int64_t step = x.token_stride * 2 * kStep;
    const uint32_t to = tile + part / 8 * kPanelBytes + swizzled(first, part % 8 * 8);
    if (__builtin_expect(is_aligned(from, 16) && x.token_stride % 8 == 0, 1)) {
#pragma unroll
      for (int i = 0; i < kChunk / kStep; ++i, from += step) {
        copy_async(to + i * kStep * 128, from, first + i * kStep < rows ? 16 : 0);
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < kChunk / kStep; ++i, from += step) {
        uint32_t words[4] = {};
        if (first + i * kStep < rows) {
#pragma unroll
          for (int word = 0; word < 4; ++word) {
            const auto* halves = reinterpret_cast<const uint16_t*>(from) + 2 * word;
            words[word] = uint32_t{halves[0]} | uint32_t{halves[1]} << 16;
          }
        }
        asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to + i * kStep * 128),
                     "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                     : "memory");
      }
    }
  }
};

// --- Gram matrices

template <class T, int K>
__device__ __forceinline__ void multiply_rows(float (&d)[32], uint32_t a, uint32_t b) {
  const uint64_t from_a = descriptor(a), from_b = descriptor(b);
#pragma unroll
  for (int step = 0; step < K / 16; ++step) {
    const int at = step / 4 * kPanelBytes + step % 4 * 32;
    multiply_64x64<T>(d, advance(from_a, at), advance(from_b, at), step > 0);
  }
}

// Of the diagonal of x, the elements of rows lane / 4 and 8 further of the warp's 16; right in the
// lanes of has_diagonal.
__device__ __forceinline__ bool has_diagonal(int lane) { return lane % 4 == lane / 8; }
__device__ __forceinline__ float2 diagonal_of(const float (&x)[32], int warp, int lane) {
  float2 result{};
  const bool odd = lane / 4 % 2 != 0;
#pragma unroll
  for (int w = 0; w < kTiles; ++w) {
    const float upper = odd ? x[8 * w + 1] : x[8 * w];
    const float lower = odd ? x[8 * w + 7] : x[8 * w + 6];
    if (w == warp) result = {upper, lower};
  }
  return result;
}

// A power of two p such that |k| p is in [1, 2); 1 where |k|^2 is 0 or not finite. For float16, in
// which the power is one, too, 2^15 at most: times it no element of k is below the least of normal
// size.
template <class T>
__device__ __forceinline__ float row_power(float square) {
  const uint32_t bits = __float_as_uint(square);
  if (bits < 0x00800000u || bits >= 0x7f800000u) return 1.0f;
  const int exponent = (static_cast<int>(bits >> 23) - 127) >> 1;
  constexpr int kMost = std::is_same_v<T, __half> ? 15 : 63;
  return __uint_as_float(static_cast<uint32_t>(127 + min(-exponent, kMost)) << 23);
}

// --- Keys in float16

// Pairs of elements as stored, times a power of two, to float16.
template <class T>
struct ToHalves {
  uint32_t by;

  static __device__ __forceinline__ ToHalves of(float power) {
    if constexpr (std::is_same_v<T, __half>) {
      return {pack_halves(power, power)};
    } else {
      constexpr int kBias = 127 - 15;
      const int exponent = static_cast<int>(__float_as_uint(power) >> 23) - 127;
      return {static_cast<uint32_t>((exponent - kBias) * 128 & 0xffff) * 0x10001u};
    }
  }
  // bfloat16 is float16 with another bias and three digits fewer: a sum of integers and a shift.
  // Below 2^-14, which is nothing beside the 1 to 2 of |k|, it is off by 2^-15 at most.
  __device__ __forceinline__ uint32_t operator()(uint32_t x) const {
    if constexpr (std::is_same_v<T, __half>) {
      const __half2 product =
          __hmul2(*reinterpret_cast<const __half2*>(&x), *reinterpret_cast<const __half2*>(&by));
      return *reinterpret_cast<const uint32_t*>(&product);
    } else {
      return __viaddmax_s16x2(x & 0x7fff7fffu, by, 0) << 3 | (x & 0x80008000u);
    }
  }
};

// A piece of 16 bytes lies in the record where it lies in shared memory.
template <class T, int K>
__device__ __forceinline__ void store_keys(const PrepareShared& m, KeyRecord<K>* record) {
  constexpr int kPieces = kChunk * 8;  // of a panel
  constexpr int kAtOnce = kPieces / kTeamThreads;
  const int thread = team_thread();
  ToHalves<T> to_halves[kAtOnce];
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    to_halves[i].by = m.to_halves[i * (kTeamThreads / 8) + thread / 8];
  }
#pragma unroll 1
  for (int panel = 0; panel < K / 64; ++panel) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const ToHalves<T>& convert = to_halves[i];
      const int piece = panel * kPieces + i * kTeamThreads + thread;
      const uint4 x = reinterpret_cast<const uint4*>(m.rows)[piece];
      reinterpret_cast<uint4*>(record->k)[piece] = {convert(x.x), convert(x.y), convert(x.z),
                                                    convert(x.w)};
    }
  }
}

// --- Norms

// Norms and powers of the rows, from the diagonals of k k^T and q q^T.
template <class T>
__device__ __forceinline__ void store_norms(PrepareShared& m, const DeltaRuleProblem& p,
                                            float2 k_square, float2 q_square, int rows,
                                            const LanePlace& at) {
  const bool owner = has_diagonal(at.lane);
  if (!p.use_qk_l2norm) {  // else P is within what float16 holds
    const auto largest = [&](float2 square) {
      const uint32_t bits = max(__float_as_uint(square.x), __float_as_uint(square.y));
      return __reduce_max_sync(kAllLanes, owner ? bits : 0);
    };
    const uint32_t k_largest = largest(k_square), q_largest = largest(q_square);
    if (at.lane == 0) {
      m.k_largest[at.warp] = k_largest;
      m.q_largest[at.warp] = q_largest;
    }
  }
  if (!owner) return;
  const auto norm = [&](bool exists, float square) {
    if (!exists) return 0.0f;
    return p.use_qk_l2norm ? rsqrtf(__fadd_rn(square, p.l2norm_eps)) : 1.0f;
  };
  const auto store = [&](int i, float k2, float q2) {
    const float power = row_power<T>(k2);
    m.k_norm[i] = norm(i < rows, k2);
    m.q_norm[i] = norm(i < rows, q2);
    m.k_power_inverse[i] = inverse_power(power);
    m.to_halves[i] = ToHalves<T>::of(power).by;
  };
#pragma unroll 1
  for (int r = 0; r < 2; ++r) {
    store(r == 0 ? at.i0 : at.i1, r == 0 ? k_square.x : k_square.y,
          r == 0 ? q_square.x : q_square.y);
  }
}

}  // namespace gdn::cuda::sm90
