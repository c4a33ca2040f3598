// The warpgroup that owns the state: 64 columns of V as the rows of every product, a warp 16 of
// them, S [64, K] in float32 accumulators. With K, Q, V, a, d and the other names of
// chunk_sm90_record.h, for each chunk
//
//   X     = V^T - a o (S K^T)
//   V_new = X T^T
//   S     = exp(G_C) S + (d o V_new) K
//
// This chain of products and what lies between them is what a chunk takes, so everything else is
// other warpgroups': outputs, from S and V_new by mail (chunk_sm90_output.cuh), loads and the
// conversion of k (chunk_sm90_movers.cuh).
//
// The accumulators of a product, packed to 16 bits, are the left operand of the next.
//
// What is packed. S: the type of K and Q as they are stored, so that these need no conversion.
// X and V_new: float16, in units of a power of two for each column of V, at which neither overflows
// and what is lost below is nothing beside the rest: the exponent of the largest element of the
// column in S and V, chunk by chunk. S is kept in the units of the last chunk. bfloat16 and float32
// have the same exponents, so no bit of S K^T depends on the unit, and a state that went through
// memory goes on as one that did not. float16 has not: there S is packed in units of its own
// largest element, for which the products wait.
#pragma once

#include <type_traits>

#include "cuda/chunk_sm90_shared.cuh"
#include "cuda/element.cuh"
#include "cuda/hopper.cuh"
#include "cuda/mma.cuh"
#include "cuda/wgmma.cuh"
#include "problem.h"

namespace gdn::cuda::sm90 {

// The exponent of x as a power of two, within what units may be; 0 for 0 and what is not finite.
__device__ inline float unit_of(float x, float least, float largest) {
  const uint32_t exponent = __float_as_uint(x) & 0x7f800000u;
  if (exponent == 0 || exponent == 0x7f800000u) return 0;
  return fminf(fmaxf(__uint_as_float(exponent), least), largest);
}
__device__ inline float inverse_of_power(float power) {
  return __uint_as_float(0x7f000000u - __float_as_uint(power));
}

// Of each of two pairs of elements the larger magnitude, with a sign that means nothing.
template <class T>
__device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
  uint32_t result;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm("max.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("max.xorsign.abs.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
}

template <class T, int K>
struct StateColumns {
  static constexpr bool kBF16 = std::is_same_v<T, __nv_bfloat16>;
  static constexpr int kTiles = K / 8;  // accumulator tiles of a state row
  static constexpr int kTokenTiles = kChunk / 8;
  static constexpr int kSteps = K / 16;  // of products over K
  // Units whose inverses, and products with elements of a column, are normal numbers of T.
  static constexpr float kLeastUnit = kBF16 ? 0x1p-60f : 0x1p-14f;
  static constexpr float kLargestUnit = kBF16 ? 0x1p60f : 0x1p14f;
  using Pair = std::conditional_t<kBF16, __nv_bfloat162, __half2>;

  Shared<K>& m;
  int warp = static_cast<int>(threadIdx.x) % kGroup / kWarp;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  // Element 4 tile + 2 r + e: row lane / 4 + 8 r, column 8 tile + 2 (lane % 4) + e.
  float S[K / 2];
  float unit[2] = {1, 1};  // of the rows: S is times unit in truth
  // Of the chunk in work.
  uint32_t packed_S[K / 4];
  float pack_factor[2] = {1, 1};  // what S was times when it was packed
  float x[kChunk / 2];            // S K^T, then V_new
  uint32_t a[kChunk / 4];         // X, then V_new, packed
  uint32_t decayed[kChunk / 4];   // d o V_new, packed
  float change[2] = {};           // old unit over new

  // ---- To and from memory

  // Body(element of S, row, element of the slot). The strides are opaque to the compiler, which
  // would else keep every offset in registers throughout the walk.
  template <class E, class Body>
  __device__ void for_each_element(E* block, int64_t V, StateLayout layout, const Body& body) {
    const bool vk = layout == StateLayout::kVK;
    int v_stride = vk ? K : 1, k_stride = vk ? 1 : static_cast<int>(V);
    asm volatile("" : "+r"(v_stride), "+r"(k_stride));
    E* first = block + (warp * 16 + lane / 4) * v_stride + lane % 4 * 2 * k_stride;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        body(S[4 * tile + i], i / 2, first[i / 2 * 8 * v_stride + (tile * 8 + i % 2) * k_stride]);
      }
    }
  }
  // `block`: the state's first element of the columns; nullptr: zeros.
  __device__ void load(const std::byte* block, DType dtype, int64_t V, StateLayout layout) {
    if (block == nullptr) {
#pragma unroll
      for (float& s : S) s = 0;
      return;
    }
    with_element(dtype, [&](auto e) {
      using E = decltype(e);
      for_each_element(reinterpret_cast<const E*>(block), V, layout,
                       [](float& s, int, const E& from) { s = to_float(from); });
    });
    set_unit();
  }
  __device__ void store(std::byte* block, DType dtype, int64_t V, StateLayout layout) {
    if (block == nullptr) return;
    with_element(dtype, [&](auto e) {
      using E = decltype(e);
      for_each_element(reinterpret_cast<E*>(block), V, layout,
                       [&](const float& s, int row, E& to) { to = from_float<E>(s * unit[row]); });
    });
  }
  // Of a state that was just loaded.
  __device__ void set_unit() {
    float largest[2];
    largest_of_rows(largest);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float own = unit_of(largest[r], 0x1p-60f, 0x1p60f);
      unit[r] = own == 0 ? 1.0f : own;
    }
    const float inverse[2] = {inverse_of_power(unit[0]), inverse_of_power(unit[1])};
#pragma unroll
    for (int i = 0; i < K / 2; ++i) S[i] *= inverse[i / 2 % 2];
  }
  __device__ void largest_of_rows(float (&largest)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = 0;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        most = fmaxf(most, fmaxf(fabsf(S[4 * tile + 2 * r]), fabsf(S[4 * tile + 2 * r + 1])));
      }
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
      largest[r] = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
    }
  }

  // ---- Products

  // Four registers of packed tiles: the left operand of a step.
  template <int kCount>
  __device__ static const uint32_t (&operand(const uint32_t (&packed)[kCount], int step))[4] {
    return *reinterpret_cast<const uint32_t(*)[4]>(packed + 4 * step);
  }
  // A tile, or tiles side by side, as an operand; the same in all lanes for the compiler too.
  __device__ __forceinline__ static uint64_t operand_of(const std::byte* tiles, int leading = 16) {
    return descriptor(__shfl_sync(kAllLanes, shared_address(tiles), 0), leading);
  }
  // Of step `step` where it is contracted over what lies side by side.
  __device__ __forceinline__ static uint64_t at_step(uint64_t tiles, int step) {
    return advance(tiles, step / 4 * kTileBytes + step % 4 * 32);
  }
  __device__ void pack_state() {
    if constexpr (!kBF16) {
      float largest[2];
      largest_of_rows(largest);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float own = unit_of(largest[r], 0x1p-100f, 0x1p100f);
        pack_factor[r] = own == 0 ? 1.0f : inverse_of_power(own);
      }
    }
#pragma unroll
    for (int i = 0; i < K / 4; ++i) {
      const float factor = kBF16 ? 1.0f : pack_factor[i % 2];
      packed_S[i] = pack_pair<T>(S[2 * i] * factor, S[2 * i + 1] * factor);
    }
  }
  __device__ void multiply_keys(const Stage<K>& stage) {
    const uint64_t keys = operand_of(stage.k);
    fence_wgmma();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      multiply_64x64<T, Major::kK>(x, operand(packed_S, step), at_step(keys, step), step > 0);
    }
    commit_wgmma();
  }
  // Values at the lane's two columns of a tile of tokens.
  __device__ float2 at_tokens(const float* vector, int tile) const {
    return *reinterpret_cast<const float2*>(vector + tile * 8 + lane % 4 * 2);
  }

  // V^T as packed accumulators.
  __device__ void load_values(const Stage<K>& stage, uint32_t (&v)[kChunk / 4]) const {
#pragma unroll
    for (int pair = 0; pair < kTokenTiles / 2; ++pair) {
      const int token = pair * 16 + lane / 16 * 8 + lane % 8;
      const int column = warp * 16 + lane / 8 % 2 * 8;
      uint32_t four[4];
      load_matrices_transposed(
          shared_address(stage.v) + static_cast<uint32_t>(swizzled(token, column)), four);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[4 * pair + i] = four[i];
    }
  }

  // Units for this chunk, and V in them.
  __device__ void choose_units(uint32_t (&v)[kChunk / 4]) {
    uint32_t of_state[2], of_values[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      of_state[r] = packed_S[r];
      of_values[r] = v[r];
#pragma unroll
      for (int i = 2 + r; i < K / 4; i += 2) of_state[r] = larger<T>(of_state[r], packed_S[i]);
#pragma unroll
      for (int i = 2 + r; i < kChunk / 4; i += 2) of_values[r] = larger<T>(of_values[r], v[i]);
    }
    const uint32_t state = largest_of_pairs(of_state), values = largest_of_pairs(of_values);
    const float2 s = unpack_pair<T>(state), w = unpack_pair<T>(values);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float in_state = (r == 0 ? s.x : s.y) * unit[r] * inverse_of_power(pack_factor[r]);
      const float own = unit_of(fmaxf(in_state, r == 0 ? w.x : w.y), kLeastUnit, kLargestUnit);
      const float now = own == 0 ? unit[r] : own;
      change[r] = unit[r] * inverse_of_power(now);
      unit[r] = now;
      const Pair inverse = as_pair(pack_pair<T>(inverse_of_power(now), inverse_of_power(now)));
#pragma unroll
      for (int i = r; i < kChunk / 4; i += 2) v[i] = as_bits(__hmul2(as_pair(v[i]), inverse));
    }
  }
  __device__ static Pair as_pair(uint32_t bits) { return *reinterpret_cast<const Pair*>(&bits); }
  __device__ static uint32_t as_bits(Pair pair) {
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  // The largest |elements| of two rows, over the four lanes that share them.
  __device__ static uint32_t largest_of_pairs(const uint32_t (&rows)[2]) {
    uint32_t both =
        larger<T>(__byte_perm(rows[0], rows[1], 0x5410), __byte_perm(rows[0], rows[1], 0x7632));
    both = larger<T>(both, __shfl_xor_sync(kAllLanes, both, 1));
    both = larger<T>(both, __shfl_xor_sync(kAllLanes, both, 2));
    return both & 0x7fff7fffu;
  }

  // S for the output warpgroup.
  __device__ void mail_state(uint32_t parity) {
    wait_barrier(shared_address(&m.state_empty[warp]), parity ^ 1);
    m.state.put(warp, lane, packed_S);
    __syncwarp();
    if (lane == 0) arrive(shared_address(&m.state_full[warp]));
  }
  // V_new and what the rows of S Q^T, and of its sum with V_new P^T, are to be times.
  __device__ void mail_v_new(const HeadRecord& record, uint32_t parity) {
    const float both_powers = record.T_power * record.P_power;
    const float inverse = inverse_of_power(both_powers);
#pragma unroll
    for (int i = 0; i < kChunk / 4; ++i) a[i] = pack_halves(x[2 * i], x[2 * i + 1]);
    wait_barrier(shared_address(&m.v_new_empty[warp]), parity ^ 1);
    m.v_new.put(warp, lane, a);
    m.factors[warp][lane] = {change[0] * inverse_of_power(pack_factor[0]) * inverse,
                             change[1] * inverse_of_power(pack_factor[1]) * inverse,
                             unit[0] * both_powers, unit[1] * both_powers};
    __syncwarp();
    if (lane == 0) arrive(shared_address(&m.v_new_full[warp]));
  }

  // From S K^T in flight to V_new in x and d o V_new packed; S times its decay.
  __device__ void solve(const Stage<K>& stage, uint64_t& k_read) {
    const HeadRecord& record = stage.record;
    uint32_t v[kChunk / 4];
    load_values(stage, v);
    choose_units(v);
    const float in_new[2] = {change[0] * inverse_of_power(pack_factor[0]),
                             change[1] * inverse_of_power(pack_factor[1])};
    float2 factors[kTokenTiles][2];
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      const float2 of_token = at_tokens(record.residual, tile);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        factors[tile][r] = {of_token.x * in_new[r], of_token.y * in_new[r]};
      }
    }
    const uint64_t T_high = operand_of(record.T_high), T_low = operand_of(record.T_low);
    wait_wgmma<0>();
    pin(x);
    if (lane == 0) arrive(shared_address(&k_read));
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 values = unpack_pair<T>(v[2 * tile + r]);
        const float* sk = x + 4 * tile + 2 * r;
        a[2 * tile + r] = pack_halves(__fmaf_rn(-factors[tile][r].x, sk[0], values.x),
                                      __fmaf_rn(-factors[tile][r].y, sk[1], values.y));
      }
    }
    fence_wgmma();
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      multiply_64x64<__half, Major::kK>(x, operand(a, step), at_step(T_high, step), step > 0);
      multiply_64x64<__half, Major::kK>(x, operand(a, step), at_step(T_low, step), true);
    }
    commit_wgmma();
    const float decay[2] = {record.decay * change[0], record.decay * change[1]};
#pragma unroll
    for (int i = 0; i < K / 2; ++i) S[i] *= decay[i / 2 % 2];
    float2 d[kTokenTiles];
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      d[tile] = at_tokens(record.update, tile);
      d[tile].x *= record.T_power;
      d[tile].y *= record.T_power;
    }
    wait_wgmma<0>();
    pin(x);
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float* v_new = x + 4 * tile + 2 * r;
        decayed[2 * tile + r] = pack_halves(d[tile].x * v_new[0], d[tile].y * v_new[1]);
      }
    }
  }

  // From there to the state after the chunk, in flight.
  __device__ void update(const Stage<K>& stage, uint64_t& k_ready, uint32_t phase) {
    const uint64_t keys = operand_of(stage.k, kTileBytes);
    wait_barrier(shared_address(&k_ready), phase);
    fence_wgmma();
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      const uint64_t tokens = advance(keys, step * 16 * 128);
      if constexpr (K == 64) {
        multiply_64x64<__half, Major::kMN>(S, operand(decayed, step), tokens, true);
      } else {
        multiply_64x128<__half, Major::kMN>(S, operand(decayed, step), tokens, true);
      }
    }
    commit_wgmma();
  }

  // Chunks first .. first + count - 1 of the block's. No products are in flight around the loop,
  // where the compiler would wait for each.
  __device__ void walk(Cursor& cursor, int64_t first, int64_t count) {
#pragma unroll 1
    for (int64_t c = first; c < first + count; ++c) {
      const int at = cursor.stage;
      const Stage<K>& stage = m.stage[at];
      const auto parity = static_cast<uint32_t>(c & 1);
      pack_state();
      wait_barrier(shared_address(&m.full[at]), cursor.phase);
      multiply_keys(stage);
      mail_state(parity);
      solve(stage, m.k_read[at]);
      update(stage, m.k_ready[at], cursor.phase);
      mail_v_new(stage.record, parity);
      cursor.advance();
      wait_wgmma<0>();
      pin(S);
      if (lane == 0) arrive(shared_address(&m.empty[at]));
    }
  }
};

}  // namespace gdn::cuda::sm90
