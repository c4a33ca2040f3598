// The warpgroup that owns the state: 64 columns of V as the rows of every product, a warp 16 of
// them, S [64, K] in float32 accumulators. With K, Q, V, a, b, d and the other names of
// chunk_sm90_record.h, for each chunk
//
//   X     = V^T - a o (S K^T)
//   V_new = X T^T
//   O     = b o (S Q^T) + V_new P^T
//   S     = exp(G_C) S + (d o V_new) K
//
// The accumulators of a product, packed to 16 bits, are the left operand of the next.
//
// What is packed. S: the type of K and Q as they are stored, so that these need no conversion; in
// bfloat16 at any size, in float16 in units of a power of two of its rows. X and V_new: float16, as
// they are while the largest element of X is one at which nothing overflows and nothing that
// matters is lost below; else (rescue) in units of a power of two. A chunk's unit depends on
// nothing but its state and tokens, so that a state that went through memory goes on as one that
// did not.
//
// Walks of the context split (chunk_sm90_segments.h) have no outputs, and leave out what only these
// want: S Q^T and V_new P^T.
#pragma once

#include <cfloat>
#include <type_traits>

#include "cuda/chunk_sm90_shared.cuh"
#include "cuda/element.cuh"
#include "cuda/hopper.cuh"
#include "cuda/mma.cuh"
#include "cuda/wgmma.cuh"
#include "problem.h"

namespace gdn::cuda::sm90 {

// Of each of two pairs of float16 the larger magnitude, with a sign that means nothing.
__device__ __forceinline__ uint32_t larger_halves(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("max.xorsign.abs.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}
// Over a warp, of magnitudes.
__device__ __forceinline__ uint32_t largest_of_warp(uint32_t magnitude) {
  return __reduce_max_sync(kAllLanes, magnitude);
}

template <class T, int K>
struct StateColumns {
  static constexpr bool kBF16 = std::is_same_v<T, __nv_bfloat16>;
  static constexpr int kTiles = K / 8;  // accumulator tiles of a state row
  static constexpr int kTokenTiles = kChunk / 8;
  static constexpr int kSteps = K / 16;            // of products over K
  static constexpr int kEarlySteps = K * 5 / 128;  // of S Q^T, before X is there
  // Of X, as bits of float16, 2^-12 and 512: products with T, whose elements are 2 at most while
  // |k| is 1, stay below what overflows.
  static constexpr uint32_t kLeast = 0x0c00, kMost = 0x6000;
  // A transition begins as so much times the identity, and falls from there, often to nothing. Its
  // X may be as small as it likes: what float16 then loses is 2^-33 of the state that it is
  // multiplied by, which shows where values fall by 2^20 and more within a segment.
  static constexpr float kTransitionUnit = 256;
  using TokenCursor = Cursor<Shared<K>::kTokenStages>;
  using PreparedCursor = Cursor<Shared<K>::kPreparedStages>;

  Shared<K>& m;
  uint32_t least = kLeast;
  int warp = static_cast<int>(threadIdx.x) / kWarp;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  // Element 4 tile + 2 r + e: row lane / 4 + 8 r, column 8 tile + 2 (lane % 4) + e.
  float S[K / 2];
  // Of the chunk in work.
  uint32_t packed_S[K / 4];
  float packed_unit[2] = {1, 1};  // S was over it when it was packed; 1 in bfloat16
  float unit = 1;                 // of X and V_new
  float state_unit = 1;           // of S from its decay to its update
  float x[kChunk / 2];            // S K^T, then V_new
  float out[kChunk / 2];          // S Q^T, then O
  float out_unit = 1;             // what O is to be times
  uint32_t a[kChunk / 4];         // X, then V_new, packed
  uint32_t decayed[kChunk / 4];   // d o V_new, packed
  int blocks = cluster_size();    // that wait for this one's warps before they load anew
  TokenCursor tokens_at;
  PreparedCursor prepared_at;
  Cursor<Shared<K>::kOutStages> out_at;

  // ---- To and from memory

  // Body(element of S, element of the slot). The strides are opaque to the compiler, which
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
        body(S[4 * tile + i], first[i / 2 * 8 * v_stride + (tile * 8 + i % 2) * k_stride]);
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
                       [](float& s, const E& from) { s = to_float(from); });
    });
  }
  __device__ void store(std::byte* block, DType dtype, int64_t V, StateLayout layout) {
    if (block == nullptr) return;
    with_element(dtype, [&](auto e) {
      using E = decltype(e);
      for_each_element(reinterpret_cast<E*>(block), V, layout,
                       [](const float& s, E& to) { to = from_float<E>(s); });
    });
  }
  // Zero, or rows from `row` on of kTransitionUnit times the identity.
  __device__ __forceinline__ void begin_without_outputs(bool transition, int row) {
    if (transition) least = 0;
    const float one = transition ? kTransitionUnit : 0.0f;
    const int to_diagonal = row + warp * 16 + lane / 4 - lane % 4 * 2;
    int i = 0;
#pragma unroll
    for (float& s : S) {
      s = to_diagonal == i / 4 * 8 + i % 2 - i / 2 % 2 * 8 ? one : 0.0f;
      ++i;
    }
  }
  // Finite, so that it leaves a state of zero one: NaN of the tokens is in N, too.
  __device__ __forceinline__ void end_transition() {
#pragma unroll
    for (float& s : S) {
      s *= 1 / kTransitionUnit;
      if (!(fabsf(s) <= FLT_MAX)) s = FLT_MAX;
    }
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

  // A stage, when the warp has read it, to the loading warps of all blocks of the cluster.
  __device__ __forceinline__ void give_back(const uint64_t& empty) const {
    __syncwarp();
    if (lane < blocks) arrive_at(shared_address(&empty), lane);
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
  // T or P, and a step of it.
  __device__ __forceinline__ static uint64_t operand_of(const Panels& matrix) {
    return narrow_descriptor(__shfl_sync(kAllLanes, shared_address(&matrix), 0));
  }
  __device__ __forceinline__ static uint64_t at_panel(uint64_t matrix, int step) {
    return advance(matrix, step * Panels::kPanelBytes);
  }
  __device__ void pack_state() {
    if constexpr (kBF16) {
#pragma unroll
      for (int i = 0; i < K / 4; ++i) packed_S[i] = pack_pair<T>(S[2 * i], S[2 * i + 1]);
    } else {
      float largest[2], inverse[2];
      largest_of_rows(largest);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        packed_unit[r] = fminf(fmaxf(power_of_two(largest[r]), 0x1p-100f), 0x1p100f);
        inverse[r] = inverse_power(packed_unit[r]);
      }
#pragma unroll
      for (int i = 0; i < K / 4; ++i) {
        packed_S[i] = pack_pair<T>(S[2 * i] * inverse[i % 2], S[2 * i + 1] * inverse[i % 2]);
      }
    }
  }
  __device__ void multiply_keys(const Tokens<K>& tokens) {
    const uint64_t keys = operand_of(tokens.k);
    fence_wgmma();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      multiply_64x64<T, Major::kK>(x, operand(packed_S, step), at_step(keys, step), step > 0);
    }
    commit_wgmma();
  }
  __device__ void multiply_queries(const Tokens<K>& tokens, int from, int to) {
    const uint64_t queries = operand_of(tokens.q);
    fence_wgmma();
#pragma unroll
    for (int step = from; step < to; ++step) {
      multiply_64x64<T, Major::kK>(out, operand(packed_S, step), at_step(queries, step), step > 0);
    }
    commit_wgmma();
  }
  __device__ void multiply_T(const Prepared<K>& prepared) {
    const uint64_t high = operand_of(prepared.T_high), low = operand_of(prepared.T_low);
    fence_wgmma();
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      multiply_64x64<__half, Major::kK>(x, operand(a, step), at_panel(high, step), step > 0);
    }
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      multiply_64x64<__half, Major::kK>(x, operand(a, step), at_panel(low, step), true);
    }
    commit_wgmma();
  }

  // Values at the lane's two columns of a tile of tokens.
  __device__ float2 at_tokens(const float* vector, int tile) const {
    return *reinterpret_cast<const float2*>(vector + tile * 8 + lane % 4 * 2);
  }

  // V^T as packed accumulators.
  __device__ void load_values(const Tokens<K>& tokens, uint32_t (&v)[kChunk / 4]) const {
#pragma unroll
    for (int pair = 0; pair < kTokenTiles / 2; ++pair) {
      const int token = pair * 16 + lane / 16 * 8 + lane % 8;
      const int column = warp * 16 + lane / 8 % 2 * 8;
      uint32_t four[4];
      load_matrices_transposed(
          shared_address(tokens.v) + static_cast<uint32_t>(swizzled(token, column)), four);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[4 * pair + i] = four[i];
    }
  }

  // Body(residual of two tokens, where they are packed), from S K^T in x.
  template <class Body>
  __device__ void for_each_residual(const uint32_t (&v)[kChunk / 4],
                                    const float2 (&of_token)[kTokenTiles], const Body& body) const {
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 values = unpack_pair<T>(v[2 * tile + r]);
        float2 factor = of_token[tile];
        if constexpr (!kBF16) {
          factor.x *= packed_unit[r];
          factor.y *= packed_unit[r];
        }
        const float* sk = x + 4 * tile + 2 * r;
        body(float2{__fmaf_rn(-factor.x, sk[0], values.x), __fmaf_rn(-factor.y, sk[1], values.y)},
             2 * tile + r);
      }
    }
  }

  // The largest magnitude of all warps, each of which gives its own. `turn`: another one than that
  // of the call before.
  __device__ uint32_t largest_of_all(uint32_t of_warp, int turn) {
    if (lane == 0) m.largest[turn][warp] = of_warp;
    sync_threads<kGroup>(1);
    const uint4 all = *reinterpret_cast<const uint4*>(m.largest[turn]);
    return max(max(all.x, all.y), max(all.z, all.w));
  }

  // X too large or too small for float16 as it is: once more, in units of its largest element.
  __device__ void rescue(const Tokens<K>& tokens, const Prepared<K>& prepared) {
    wait_wgmma<0>();
    multiply_keys(tokens);
    uint32_t v[kChunk / 4];
    load_values(tokens, v);
    float2 of_token[kTokenTiles];
    load_vector(prepared.vectors.residual, of_token);
    wait_wgmma<0>();
    pin(x);
    float largest = 0;
    for_each_residual(v, of_token, [&](float2 residual, int) {
      largest = fmaxf(largest, fmaxf(fabsf(residual.x), fabsf(residual.y)));
    });
    const uint32_t bits = largest_of_all(largest_of_warp(__float_as_uint(largest)), 2);
    unit = bits == 0 ? 1.0f : fminf(fmaxf(power_of_two(__uint_as_float(bits)), 0x1p-60f), 0x1p60f);
    const float inverse = inverse_power(unit);
    for_each_residual(v, of_token, [&](float2 residual, int at) {
      a[at] = pack_halves(residual.x * inverse, residual.y * inverse);
    });
    multiply_T(prepared);
#pragma unroll
    for (float& s : S) s *= inverse;
    wait_wgmma<0>();
  }
  __device__ void load_vector(const float* vector, float2 (&at)[kTokenTiles]) const {
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) at[tile] = at_tokens(vector, tile);
  }

  // From S K^T in flight to V_new in x, d o V_new packed, and S Q^T in out; S times its decay.
  // `meanwhile` runs while the first products do.
  template <bool kOutputs, class Body>
  __device__ void solve(int64_t chunk, const Body& meanwhile) {
    const Tokens<K>& tokens = m.tokens[tokens_at.stage];
    const Prepared<K>& prepared = m.prepared[prepared_at.stage];
    const RecordVectors& vectors = prepared.vectors;
    if constexpr (kOutputs) multiply_queries(tokens, 0, kEarlySteps);
    meanwhile();
    uint32_t v[kChunk / 4];
    load_values(tokens, v);
    wait_barrier(shared_address(&m.prepared_full[prepared_at.stage]), prepared_at.phase);
    float2 of_token[kTokenTiles];
    load_vector(vectors.residual, of_token);
    wait_wgmma<kOutputs ? 1 : 0>();
    pin(x);
    for_each_residual(
        v, of_token, [&](float2 residual, int at) { a[at] = pack_halves(residual.x, residual.y); });
    multiply_T(prepared);
    if constexpr (kOutputs) multiply_queries(tokens, kEarlySteps, kSteps);

    uint32_t largest = a[0];
#pragma unroll
    for (int i = 1; i < kChunk / 4; ++i) largest = larger_halves(largest, a[i]);
    largest = max(largest & 0x7fffu, largest >> 16 & 0x7fffu);
    largest = largest_of_all(largest_of_warp(largest), static_cast<int>(chunk & 1));
    unit = 1;
    const float decay = vectors.decay;
#pragma unroll
    for (float& s : S) s *= decay;
    if (largest > kMost || largest < least) rescue(tokens, prepared);
    const float T_power = vectors.T_power;
    out_unit = unit * T_power * vectors.P_power;
    state_unit = unit * vectors.growth;
    load_vector(vectors.update, of_token);
#pragma unroll
    for (float2& d : of_token) d = {d.x * T_power, d.y * T_power};
    wait_wgmma<kOutputs ? 1 : 0>();
    pin(x);
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float* v_new = x + 4 * tile + 2 * r;
        decayed[2 * tile + r] =
            pack_halves(of_token[tile].x * v_new[0], of_token[tile].y * v_new[1]);
      }
    }
    pin(decayed);
    if constexpr (kOutputs) {
      wait_wgmma<0>();
      pin(out);
    }
    give_back(m.tokens_empty[tokens_at.stage]);
    tokens_at.advance();
  }

  // From there to the state after the chunk and its output, in flight.
  template <bool kOutputs>
  __device__ void update() {
    const Prepared<K>& prepared = m.prepared[prepared_at.stage];
    const uint64_t keys = operand_of(prepared.keys.k, kTileBytes);
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
    if constexpr (!kOutputs) return;
    float2 b[kTokenTiles];
    load_vector(prepared.vectors.output, b);
    const float inverse = inverse_power(out_unit);
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      b[tile] = {b[tile].x * inverse, b[tile].y * inverse};
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float* o = out + 4 * tile + 2 * r;
        float2 factor = b[tile];
        if constexpr (!kBF16) factor = {factor.x * packed_unit[r], factor.y * packed_unit[r]};
        o[0] *= factor.x;
        o[1] *= factor.y;
        a[2 * tile + r] = pack_halves(x[4 * tile + 2 * r], x[4 * tile + 2 * r + 1]);
      }
    }
    const uint64_t P = operand_of(prepared.P);
    fence_wgmma();
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      multiply_64x64<__half, Major::kK>(out, operand(a, step), at_panel(P, step), true);
    }
    commit_wgmma();
  }
  // Once S is there.
  __device__ void finish_state() {
    pin(S);
    if (state_unit == 1) return;
#pragma unroll
    for (float& s : S) s *= state_unit;
  }
  __device__ void give_back_prepared() {
    give_back(m.prepared_empty[prepared_at.stage]);
    prepared_at.advance();
  }
  // Once the output is: packed, and the prepared matrices are free.
  __device__ void finish_out(uint32_t (&packed)[kChunk / 4]) {
    pin(out);
    give_back_prepared();
    if (out_unit != 1) {
#pragma unroll
      for (float& o : out) o *= out_unit;
    }
#pragma unroll
    for (int i = 0; i < kChunk / 4; ++i) packed[i] = pack_pair<T>(out[2 * i], out[2 * i + 1]);
    pin(packed);
  }

  // The output of a chunk to shared memory, for the warp that stores it.
  __device__ void put_out(const uint32_t (&packed)[kChunk / 4]) {
    wait_barrier(shared_address(&m.out_empty[out_at.stage]), out_at.phase ^ 1);
#pragma unroll
    for (int pair = 0; pair < kTokenTiles / 2; ++pair) {
      const int token = pair * 16 + lane / 16 * 8 + lane % 8;
      const int column = warp * 16 + lane / 8 % 2 * 8;
      store_matrices_transposed(
          shared_address(m.out[out_at.stage]) + static_cast<uint32_t>(swizzled(token, column)),
          packed[4 * pair], packed[4 * pair + 1], packed[4 * pair + 2], packed[4 * pair + 3]);
    }
    fence_async_proxy();
    __syncwarp();
    if (lane == 0) arrive(shared_address(&m.out_full[out_at.stage]));
    out_at.advance();
  }

  // Chunks first .. first + count - 1 of the block's, count at least 1. Products are in flight from
  // one chunk to the next, but never around the loop, where the compiler would wait for each.
  template <bool kOutputs>
  __device__ void walk(int64_t first, int64_t count) {
    const auto begin = [&] {
      pack_state();
      wait_barrier(shared_address(&m.tokens_full[tokens_at.stage]), tokens_at.phase);
      multiply_keys(m.tokens[tokens_at.stage]);
    };
    uint32_t packed[kChunk / 4];
    begin();
    solve<kOutputs>(first, [] {});
#pragma unroll 1
    for (int64_t c = first; c < first + count - 1; ++c) {
      update<kOutputs>();
      wait_wgmma<kOutputs ? 1 : 0>();
      finish_state();
      if constexpr (kOutputs) {
        begin();
        wait_wgmma<1>();
        finish_out(packed);
        solve<kOutputs>(c + 1, [&] { put_out(packed); });
      } else {
        give_back_prepared();
        begin();
        solve<kOutputs>(c + 1, [] {});
      }
    }
    update<kOutputs>();
    wait_wgmma<0>();
    finish_state();
    if constexpr (kOutputs) {
      finish_out(packed);
      put_out(packed);
    } else {
      give_back_prepared();
    }
  }
};

}  // namespace gdn::cuda::sm90
