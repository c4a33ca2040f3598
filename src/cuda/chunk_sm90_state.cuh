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
// Walks of the context split (chunk_sm90_segments.h) without outputs leave out what only these
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

// Whether the powers of two of a chunk are all 1; without a branch.
__device__ __forceinline__ bool powers_are_one(const RecordVectors& vectors) {
  const uint32_t one = __float_as_uint(1.0f);
  return ((__float_as_uint(vectors.T_power) ^ one) | (__float_as_uint(vectors.P_power) ^ one) |
          (__float_as_uint(vectors.growth) ^ one)) == 0;
}

// What becomes of outputs: nothing; they are packed, in a tile of shared memory, for a warp that
// stores them; or either that or, in the room of two, the float32 accumulators.
enum class Sink { kNone, kTile, kEither };

// Of ldmatrix and stmatrix, transposed: the byte of the lane's row in the first 16 tokens of a tile
// of v or out. The next 16 are kTokensApart further.
__device__ __forceinline__ uint32_t transposed_row(int warp, int lane) {
  return static_cast<uint32_t>(swizzled(lane / 16 * 8 + lane % 8, warp * 16 + lane / 8 % 2 * 8));
}
constexpr uint32_t kTokensApart = 16 * 128;
// Packed accumulators to a tile of tokens. `row`: the lane's, in it.
__device__ __forceinline__ void store_transposed(uint32_t row, const uint32_t (&packed)[kChunk / 4],
                                                 bool there = true) {
#pragma unroll
  for (uint32_t pair = 0; pair < kChunk / 16; ++pair) {
    store_matrices_transposed_if(there, row + pair * kTokensApart, packed[4 * pair],
                                 packed[4 * pair + 1], packed[4 * pair + 2], packed[4 * pair + 3]);
  }
}
// Accumulators in memory: four side by side, then those of the other threads. The byte of the
// thread's 4 i and three further.
__device__ __forceinline__ uint32_t accumulators_at(int i) {
  return (static_cast<uint32_t>(i) * kGroup + threadIdx.x) * 16;
}

// A transition begins as so much times the identity, and falls from there, often to nothing. Its X
// may be as small as it likes: what float16 then loses is 2^-33 of the state that it is multiplied
// by, which shows where values fall by 2^20 and more within a segment. Its outputs keep the unit.
constexpr float kTransitionUnit = 256;

template <class T, int K, int kGroups>
struct StateColumns {
  static constexpr bool kBF16 = std::is_same_v<T, __nv_bfloat16>;
  static constexpr int kTiles = K / 8;  // accumulator tiles of a state row
  static constexpr int kTokenTiles = kChunk / 8;
  static constexpr int kSteps = K / 16;            // of products over K
  static constexpr int kEarlySteps = K * 5 / 128;  // of S Q^T, before X is there
  // Of X, as bits of float16, 2^-12 and 512: products with T, whose elements are 2 at most while
  // |k| is 1, stay below what overflows.
  static constexpr uint32_t kLeast = 0x0c00, kMost = 0x6000;
  // Two warpgroups have fewer registers: a is asked for when it is wanted.
  static constexpr bool kLateResidual = kGroups > 1;
  using TokenCursor = Cursor<Shared<K, kGroups>::kTokenStages>;
  using RecordCursor = Cursor<Shared<K, kGroups>::kRecordStages>;

  Shared<K, kGroups>& m;
  // Whether the lane tells the other block of a cluster that stages are empty, and how far that
  // one's shared memory is.
  bool tells_other = threadIdx.x % kWarp >= kWarp - kArrivals && cluster_size() > 1;
  uint32_t to_other =
      cluster_distance(shared_address(&m), cluster_size() > 1 ? cluster_rank() ^ 1 : 0);
  uint32_t least = kLeast;
  // The warpgroup, and the warp of it.
  int group = kGroups == 1 ? 0 : static_cast<int>(threadIdx.x) / kGroup;
  int warp = static_cast<int>(threadIdx.x) / kWarp - group * kStateWarps;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  uint32_t lane_row = transposed_row(warp, lane) + static_cast<uint32_t>(group * kTileBytes);
  // Element 4 tile + 2 r + e: row lane / 4 + 8 r, column 8 tile + 2 (lane % 4) + e.
  float S[K / 2];
  // Of the chunk in work.
  uint32_t packed_S[K / 4];
  float packed_unit[2] = {1, 1};      // S was over it when it was packed; 1 in bfloat16
  float unit = 1;                     // of X and V_new
  float state_unit = 1;               // of S from its decay to its update
  bool plain = true;                  // all units are 1: that of X and the powers of the record
  float x[kChunk / 2];                // S K^T, then V_new
  float out[kChunk / 2];              // S Q^T, then O
  float out_unit = 1;                 // what O is to be times
  uint32_t a[kChunk / 4];             // X, then V_new, packed
  uint32_t decayed[kChunk / 4];       // d o V_new, packed
  uint32_t next_v[kChunk / 4];        // of the next chunk: V^T, packed
  float2 next_residual[kTokenTiles];  // and a
  TokenCursor tokens_at;
  RecordCursor record_at;
  Cursor<Shared<K, kGroups>::kOutStages> out_at;
  bool as_accumulators = false;  // outputs, of Sink::kEither

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
  // The same of two elements side by side: with half of the accesses, and of float32 whole sectors.
  template <class E>
  struct alignas(2 * sizeof(E)) Pair {
    E x, y;
  };
  template <class E>
  __device__ static bool has_pairs(E* block, StateLayout layout) {
    return layout == StateLayout::kVK && is_aligned(block, 2 * sizeof(E));
  }
  template <class P, class Body>
  __device__ void for_each_pair(P* block, const Body& body) {
    P* first = block + (warp * 16 + lane / 4) * (K / 2) + lane % 4;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        body(S[4 * tile + 2 * r], S[4 * tile + 2 * r + 1], first[r * 8 * (K / 2) + tile * 4]);
      }
    }
  }
  // From nowhere: zeros.
  __device__ void load(const StatePlace& place, int64_t V) {
    if (place.block == nullptr) {
#pragma unroll
      for (float& s : S) s = 0;
      return;
    }
    with_element(place.dtype, [&](auto e) {
      using E = decltype(e);
      const auto* block = reinterpret_cast<const E*>(place.block);
      if (has_pairs(block, place.layout)) {
        for_each_pair(reinterpret_cast<const Pair<E>*>(block),
                      [](float& s0, float& s1, const Pair<E>& from) {
                        const Pair<E> both = from;
                        s0 = to_float(both.x);
                        s1 = to_float(both.y);
                      });
        return;
      }
      for_each_element(block, V, place.layout, [](float& s, const E& from) { s = to_float(from); });
    });
  }
  __device__ void store(const StatePlace& place, int64_t V) {
    if (place.block == nullptr) return;
    with_element(place.dtype, [&](auto e) {
      using E = decltype(e);
      auto* block = reinterpret_cast<E*>(place.block);
      if (has_pairs(block, place.layout)) {
        for_each_pair(reinterpret_cast<Pair<E>*>(block),
                      [](const float& s0, const float& s1, Pair<E>& to) {
                        to = {from_float<E>(s0), from_float<E>(s1)};
                      });
        return;
      }
      for_each_element(block, V, place.layout,
                       [](const float& s, E& to) { to = from_float<E>(s); });
    });
  }
  // Zero, or rows from `row` on of kTransitionUnit times the identity.
  __device__ __forceinline__ void begin_apart(bool transition, int row) {
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

  // A stage, when the warp has read it, to the loading warps of all blocks of the cluster. What the
  // other block then writes comes a round trip later than what this warp has read.
  // kOfAll: they all have it.
  template <bool kOfAll = true>
  __device__ __forceinline__ void give_back(const uint64_t& empty) const {
    __syncwarp();
    if (lane < kArrivals) arrive(shared_address(&empty));
    if (kOfAll && tells_other) arrive_in_cluster(shared_address(&empty) + to_other);
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
  __device__ void multiply_keys(const Tokens<K, kGroups>& tokens) {
    const uint64_t keys = operand_of(tokens.k);
    fence_wgmma();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      multiply_64x64<T, Major::kK>(x, operand(packed_S, step), at_step(keys, step), step > 0);
    }
    commit_wgmma();
  }
  __device__ void multiply_queries(const Tokens<K, kGroups>& tokens, int from, int to) {
    const uint64_t queries = operand_of(tokens.q);
    fence_wgmma();
#pragma unroll
    for (int step = from; step < to; ++step) {
      multiply_64x64<T, Major::kK>(out, operand(packed_S, step), at_step(queries, step), step > 0);
    }
    commit_wgmma();
  }
  __device__ void multiply_T(const Inverse& inverse) {
    const uint64_t high = operand_of(inverse.T_high), low = operand_of(inverse.T_low);
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
  __device__ void load_values(const Tokens<K, kGroups>& tokens, uint32_t (&v)[kChunk / 4]) const {
#pragma unroll
    for (uint32_t pair = 0; pair < kTokenTiles / 2; ++pair) {
      uint32_t four[4];
      load_matrices_transposed(shared_address(tokens.v) + lane_row + pair * kTokensApart, four);
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

  // The answers of all warps, a byte each: whether it has an element of X that is too large, and
  // one that is large enough. `turn`: another one than that of the call before.
  __device__ uint32_t exchange_held(bool large, bool enough, int turn) {
    if (lane == 0)
      m.held[turn][group * kStateWarps + warp] = static_cast<uint8_t>((large ? 2 : 0) + enough);
    sync_threads<kGroup>(1 + group);
    return *reinterpret_cast<const uint32_t*>(m.held[turn] + group * kStateWarps);
  }
  // Whether float16 holds X as it is: no warp has an element too large, and one has one large
  // enough.
  __device__ static bool all_held(uint32_t held) {
    return (held & 0x02020202u) == 0 && (held & 0x01010101u) != 0;
  }
  // The largest magnitude of all warps, each of which gives its own.
  __device__ uint32_t largest_of_all(uint32_t of_warp) {
    if (lane == 0) m.largest[group * kStateWarps + warp] = of_warp;
    sync_threads<kGroup>(1 + group);
    const uint4 all = *reinterpret_cast<const uint4*>(m.largest + group * kStateWarps);
    return max(max(all.x, all.y), max(all.z, all.w));
  }

  // X too large or too small for float16 as it is: once more, in units of its largest element.
  __device__ void rescue(const Tokens<K, kGroups>& tokens, const Inverse& matrices) {
    wait_wgmma<0>();
    multiply_keys(tokens);
    uint32_t v[kChunk / 4];
    load_values(tokens, v);
    float2 of_token[kTokenTiles];
    load_vector(tokens.vectors.residual, of_token);
    wait_wgmma<0>();
    pin(x);
    float largest = 0;
    for_each_residual(v, of_token, [&](float2 residual, int) {
      largest = fmaxf(largest, fmaxf(fabsf(residual.x), fabsf(residual.y)));
    });
    const uint32_t bits = largest_of_all(largest_of_warp(__float_as_uint(largest)));
    unit = bits == 0 ? 1.0f : fminf(fmaxf(power_of_two(__uint_as_float(bits)), 0x1p-60f), 0x1p60f);
    const float inverse = inverse_power(unit);
    for_each_residual(v, of_token, [&](float2 residual, int at) {
      a[at] = pack_halves(residual.x * inverse, residual.y * inverse);
    });
    multiply_T(matrices);
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
  template <Sink kSink, class Body>
  __device__ __forceinline__ void solve(const Body& meanwhile) {
    constexpr bool kOutputs = kSink != Sink::kNone;
    const Tokens<K, kGroups>& tokens = m.tokens[tokens_at.stage];
    const Inverse& matrices = m.inverse[record_at.stage];
    const RecordVectors& vectors = tokens.vectors;
    if constexpr (kOutputs) multiply_queries(tokens, 0, kEarlySteps);
    // Before what `meanwhile` asks of shared memory, which a look at a barrier would wait for.
    wait_barrier(shared_address(&m.inverse_full[record_at.stage]), record_at.phase);
    meanwhile();
    if constexpr (kLateResidual) load_vector(vectors.residual, next_residual);
    wait_wgmma<kOutputs ? 1 : 0>();
    pin(x);
    for_each_residual(next_v, next_residual, [&](float2 residual, int at) {
      a[at] = pack_halves(residual.x, residual.y);
    });
    multiply_T(matrices);
    uint32_t largest[4] = {a[0], a[1], a[2], a[3]};
#pragma unroll
    for (int i = 4; i < kChunk / 4; ++i) largest[i % 4] = larger_halves(largest[i % 4], a[i]);
    largest[0] =
        larger_halves(larger_halves(largest[0], largest[1]), larger_halves(largest[2], largest[3]));
    largest[0] = max(largest[0] & 0x7fffu, largest[0] >> 16 & 0x7fffu);
    const bool large = __any_sync(kAllLanes, largest[0] > kMost);
    const bool enough =
        __any_sync(kAllLanes, largest[0] >= (kSink == Sink::kTile ? kLeast : least));
    if constexpr (kOutputs) multiply_queries(tokens, kEarlySteps, kSteps);

    // The decay of S fills the time in which the other warps' answers come; loaded after the
    // request for them, lest the compiler puts it before.
    const bool held = all_held(exchange_held(large, enough, record_at.stage));
    const float decay = vectors.decay;
    plain = __all_sync(kAllLanes, held & powers_are_one(vectors));
#pragma unroll
    for (float& s : S) s *= decay;
    pin(S);
    float2 of_token[kTokenTiles];
    load_vector(vectors.update, of_token);
    unit = 1;
    if (__builtin_expect(!plain, 0)) {
      if (!held) rescue(tokens, matrices);
#pragma unroll
      for (float2& d : of_token) d = {d.x * vectors.T_power, d.y * vectors.T_power};
    }
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
  }

  // From there to the state after the chunk and its output, in flight. kMore: also waits for the
  // tokens of the next chunk, behind the products of S and before what has time until they are
  // done. That ptxas would put between the products, but not across a look at a barrier.
  template <Sink kSink, bool kPlain, bool kMore>
  __device__ __forceinline__ void update() {
    constexpr bool kOutputs = kSink != Sink::kNone;
    if constexpr (!kPlain) {
      const RecordVectors& vectors = m.tokens[tokens_at.stage].vectors;
      out_unit = unit * vectors.T_power * vectors.P_power;
      state_unit = unit * vectors.growth;
    }
    const Products<K>& products = m.products[record_at.stage];
    wait_barrier(shared_address(&m.products_full[record_at.stage]), record_at.phase);
    const uint64_t keys = operand_of(products.keys.k, kTileBytes);
    float2 b[kTokenTiles];
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
    if constexpr (kMore) wait_for_tokens<kSink>(tokens_at.next());
    if constexpr (kOutputs) load_vector(m.tokens[tokens_at.stage].vectors.output, b);
    give_back<Shared<K, kGroups>::kClusterOfOneHead>(m.inverse_empty[record_at.stage]);
    if constexpr (!kOutputs) return give_back_tokens();
    const float inverse = kPlain ? 1.0f : inverse_power(out_unit);
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      if constexpr (!kPlain) b[tile] = {b[tile].x * inverse, b[tile].y * inverse};
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
    give_back_tokens();
    const uint64_t P = operand_of(products.P);
    fence_wgmma();
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      multiply_64x64<__half, Major::kK>(out, operand(a, step), at_panel(P, step), true);
    }
    commit_wgmma();
  }
  // Once S is there.
  template <bool kPlain>
  __device__ __forceinline__ void finish_state() {
    pin(S);
    if constexpr (!kPlain) {
      if (__builtin_expect(state_unit == 1, 1)) return;
#pragma unroll
      for (float& s : S) s *= state_unit;
    }
  }
  __device__ void give_back_tokens() {
    give_back(m.tokens_empty[tokens_at.stage]);
    tokens_at.advance();
  }
  __device__ void give_back_products() {
    give_back(m.products_empty[record_at.stage]);
    record_at.advance();
  }
  // Once the output is: packed, or its accumulators put where it goes (whose place is free: see
  // wait_for_tokens), and P and the keys are given back.
  template <Sink kSink, bool kPlain>
  __device__ __forceinline__ void finish_out(uint32_t (&packed)[kChunk / 4]) {
    pin(out);
    give_back_products();
    if (!kPlain && __builtin_expect(out_unit != 1, 0)) {
#pragma unroll
      for (float& o : out) o *= out_unit;
    }
    if constexpr (kSink == Sink::kEither) {
      const uint32_t tile = shared_address(m.out);
#pragma unroll
      for (int i = 0; i < kChunk / 8; ++i) {
        store_if(as_accumulators, tile + accumulators_at(i), out[4 * i], out[4 * i + 1],
                 out[4 * i + 2], out[4 * i + 3]);
      }
    }
#pragma unroll
    for (int i = 0; i < kChunk / 4; ++i) packed[i] = pack_pair<T>(out[2 * i], out[2 * i + 1]);
    pin(packed);
  }

  // The output of a chunk to shared memory, for the warp that stores it.
  template <Sink kSink>
  __device__ void put_out(const uint32_t (&packed)[kChunk / 4]) {
    store_transposed(shared_address(m.out[out_at.stage]) + lane_row, packed,
                     kSink != Sink::kEither || !as_accumulators);
    __syncwarp();
    if (lane < kArrivals) arrive(shared_address(&m.out_full[out_at.stage]));
    out_at.advance();
    if (kSink == Sink::kEither && as_accumulators) out_at.advance();  // they take both stages
  }

  // Until the tokens of a chunk are there, and a place for the output of the one before it.
  template <Sink kSink>
  __device__ __forceinline__ void wait_for_tokens(const TokenCursor& at) {
    const uint32_t full = shared_address(&m.tokens_full[at.stage]);
    if constexpr (kSink != Sink::kNone) {
      wait_barriers({full, at.phase},
                    {shared_address(&m.out_empty[out_at.stage]), out_at.phase ^ 1});
    } else {
      wait_barrier(full, at.phase);
    }
  }
  // v and a of the chunk.
  __device__ __forceinline__ void load_tokens() {
    const Tokens<K, kGroups>& tokens = m.tokens[tokens_at.stage];
    load_values(tokens, next_v);
    if constexpr (!kLateResidual) load_vector(tokens.vectors.residual, next_residual);
  }
  // S K^T of the chunk.
  __device__ __forceinline__ void begin() {
    pack_state();
    multiply_keys(m.tokens[tokens_at.stage]);
  }

  // From a chunk's V_new to that of the next one. kPlain: the chunk is, so that nothing looks at
  // its units, and jumps over what they would want: a jump takes as long as some 30 instructions.
  template <Sink kSink, bool kPlain>
  __device__ __forceinline__ void turn(uint32_t (&packed)[kChunk / 4]) {
    constexpr bool kOutputs = kSink != Sink::kNone;
    update<kSink, kPlain, true>();
    load_tokens();
    wait_wgmma<kOutputs ? 1 : 0>();
    finish_state<kPlain>();
    if constexpr (!kOutputs) give_back_products();
    begin();
    if constexpr (kOutputs) {
      wait_wgmma<1>();
      finish_out<kSink, kPlain>(packed);
    }
    solve<kSink>([&] {
      if constexpr (kOutputs) put_out<kSink>(packed);
    });
  }

  // So many chunks, at least 1. Products are in flight from one chunk to the next, but never around
  // the loop, where the compiler would wait for each.
  template <Sink kSink>
  __device__ __forceinline__ void walk(int count) {
    constexpr bool kOutputs = kSink != Sink::kNone;
    uint32_t packed[kChunk / 4];
    wait_for_tokens<kSink>(tokens_at);
    load_tokens();
    begin();
    solve<kSink>([] {});
    int left = count - 1;
#pragma unroll 1
    while (left > 0) {
      if constexpr (kOutputs) {
#pragma unroll 1
        for (; plain && left > 0; --left) turn<kSink, true>(packed);
        if (left == 0) break;
      }
      turn<kSink, false>(packed);
      --left;
    }
    update<kSink, false, false>();
    wait_wgmma<0>();
    finish_state<false>();
    if constexpr (kOutputs) {
      wait_barrier(shared_address(&m.out_empty[out_at.stage]), out_at.phase ^ 1);
      finish_out<kSink, false>(packed);
      put_out<kSink>(packed);
    } else {
      give_back_products();
    }
  }
};

}  // namespace gdn::cuda::sm90
