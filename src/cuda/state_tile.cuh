// A warp's part of a value head's state, in registers: some V columns and all of K. Eight lanes
// share a column, each with kPerLane of its K elements, so that a sum over K is a lane's own sum
// and three exchanges. Which lane has which element is a function of K, the layout and the state's
// dtype alone.
//
//   [V,K] (kVK): lanes 8j .. 8j+7 have columns j * kColumns ..; a lane's elements lie in runs of 16
//                bytes, 8 lanes' runs side by side
//   [K,V]:       lanes j, j+4, ... have columns j * kColumns .., which lie side by side; a lane's
//                elements are consecutive
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/element.cuh"
#include "cuda/gates.cuh"
#include "problem.h"

namespace gdn::cuda {

constexpr int kLanesPerColumn = 8;
constexpr int kColumnGroups = kWarp / kLanesPerColumn;

// Elements of K that a lane has: 8, 16 or 32.
inline int elements_per_lane(int64_t K) { return K <= 64 ? 8 : K <= 128 ? 16 : 32; }
// V columns of a warp, so that state, k and q fit in the registers.
constexpr int columns_per_lane(int per_lane) { return per_lane == 32 ? 2 : 3; }
constexpr int columns_per_warp(int per_lane) {
  return columns_per_lane(per_lane) * kColumnGroups;
}

// Lanes, and the elements of K that they have.
template <class T, bool kVK, int kPerLane>
struct LaneMap {
  static constexpr int kColumns = columns_per_lane(kPerLane);
  static constexpr int kRun = kVK ? Vector16<T>::kCount : kPerLane;
  static constexpr int kRuns = kPerLane / kRun;

  int lane = static_cast<int>(threadIdx.x) % kWarp;
  int group = kVK ? lane / kLanesPerColumn : lane % kColumnGroups;   // of columns
  int member = kVK ? lane % kLanesPerColumn : lane / kColumnGroups;  // of the lanes of a column

  // The first element of a run.
  __device__ __forceinline__ int run_begin(int run) const { return (member + kLanesPerColumn * run) * kRun; }

  // Over the lanes of a column.
  __device__ __forceinline__ static float sum(float x) {
    return kVK ? sum_over_lanes<1, 4>(x) : sum_over_lanes<4, 16>(x);
  }

  // The lane's elements of a row of K floats of any dtype.
  __device__ __forceinline__ void load_row(const std::byte* row, DType dtype, int K, float (&x)[kPerLane]) const {
    with_element(dtype, [&](auto element) {
      using E = decltype(element);
      constexpr int kBytes = kRun * static_cast<int>(sizeof(E));
      const E* p = reinterpret_cast<const E*>(row);
      const bool vectors = K % kRun == 0 && is_aligned(p, kBytes < 16 ? kBytes : 16);
#pragma unroll
      for (int run = 0; run < kRuns; ++run) {
        float part[kRun];
        load_run(p + run_begin(run), K - run_begin(run), vectors, part);
#pragma unroll
        for (int i = 0; i < kRun; ++i) x[run * kRun + i] = part[i];
      }
    });
  }
  __device__ __forceinline__ void store_row(std::byte* row, DType dtype, int K, const float (&x)[kPerLane]) const {
    with_element(dtype, [&](auto element) {
      using E = decltype(element);
      E* p = reinterpret_cast<E*>(row);
#pragma unroll
      for (int run = 0; run < kRuns; ++run) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          if (run_begin(run) + i < K) p[run_begin(run) + i] = from_float<E>(x[run * kRun + i]);
        }
      }
    });
  }

  // sum x y over K.
  __device__ __forceinline__ static float dot(const float (&x)[kPerLane], const float (&y)[kPerLane]) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) total = __fmaf_rn(x[i], y[i], total);
    return sum(total);
  }
  __device__ __forceinline__ static void l2norm(float (&x)[kPerLane], float eps) {
    const float factor = 1.0f / sqrtf(__fadd_rn(dot(x, x), eps));
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] *= factor;
  }
};

template <class T, bool kVK, int kPerLane>
struct StateTile {
  using Map = LaneMap<T, kVK, kPerLane>;
  static constexpr int kColumns = Map::kColumns;

  Map map;
  int K, V;
  int v0;  // the lane's first column
  float s[kColumns][kPerLane];

  __device__ StateTile(int k, int v, int first_column) : K(k), V(v) {
    v0 = first_column + map.group * kColumns;
  }

  // Body(bool_constant vectors) where `head` of the state may be accessed by vectors.
  template <class E, class Body>
  __device__ __forceinline__ void by_vectors(const E* head, const Body& body) const {
    constexpr int kBytes = (kVK ? Map::kRun : kColumns) * static_cast<int>(sizeof(E));
    const bool vectors = (kVK ? K % Map::kRun : V % kColumns) == 0 &&
                         is_aligned(head, kBytes < 16 ? kBytes : 16);
    if (vectors) {
      body(std::true_type());
    } else {
      body(std::false_type());
    }
  }

  // From the first element of a value head in a slot; nullptr: zero.
  __device__ __forceinline__ void load(const std::byte* from) {
    if (from == nullptr) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int i = 0; i < kPerLane; ++i) s[c][i] = 0;
      }
      return;
    }
    const T* head = reinterpret_cast<const T*>(from);
    by_vectors(head, [&](auto vectors) {
      if constexpr (kVK) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
          for (int run = 0; run < Map::kRuns; ++run) {
            const int k = map.run_begin(run);
            float part[Map::kRun];
            load_run(head + (v0 + c) * K + k, v0 + c < V ? K - k : 0, vectors, part);
#pragma unroll
            for (int i = 0; i < Map::kRun; ++i) s[c][run * Map::kRun + i] = part[i];
          }
        }
      } else {
#pragma unroll
        for (int i = 0; i < kPerLane; ++i) {
          const int k = map.run_begin(0) + i;
          float part[kColumns];
          load_run(head + k * V + v0, k < K ? V - v0 : 0, vectors, part);
#pragma unroll
          for (int c = 0; c < kColumns; ++c) s[c][i] = part[c];
        }
      }
    });
  }

  // To a slot of any dtype. The strides are opaque to the compiler, which would else keep every
  // offset in registers over all tokens.
  __device__ __forceinline__ void store(std::byte* to, DType dtype) const {
    int row = kVK ? K : V;
    asm volatile("" : "+r"(row));
    with_element(dtype, [&](auto element) {
      using E = decltype(element);
      E* head = reinterpret_cast<E*>(to);
      by_vectors(head, [&](auto vectors) {
        if constexpr (kVK) {
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int run = 0; run < Map::kRuns; ++run) {
              const int k = map.run_begin(run);
              float part[Map::kRun];
#pragma unroll
              for (int i = 0; i < Map::kRun; ++i) part[i] = s[c][run * Map::kRun + i];
              store_run(head + (v0 + c) * row + k, v0 + c < V ? K - k : 0, vectors, part);
            }
          }
        } else {
#pragma unroll
          for (int i = 0; i < kPerLane; ++i) {
            const int k = map.run_begin(0) + i;
            float part[kColumns];
#pragma unroll
            for (int c = 0; c < kColumns; ++c) part[c] = s[c][i];
            store_run(head + k * row + v0, k < K ? V - v0 : 0, vectors, part);
          }
        }
      });
    });
  }

  // The lane's columns of a row of V floats.
  __device__ __forceinline__ void load_columns(const std::byte* row, DType dtype, float (&x)[kColumns]) const {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      x[c] = v0 + c < V ? load_element(row, dtype, v0 + c) : 0.0f;
    }
  }
  // And back, of columns that all lanes of a column know: each of the first lanes stores one.
  __device__ __forceinline__ void store_columns(std::byte* row, DType dtype, const float (&x)[kColumns]) const {
    float mine = x[0];
#pragma unroll
    for (int c = 1; c < kColumns; ++c) mine = map.member == c ? x[c] : mine;
    const int v = v0 + map.member;
    if (map.member < kColumns && v < V) store_element(row, dtype, mine, v);
  }
  __device__ __forceinline__ void zero_columns(const TokenTensor& out, const Sequence& s_, int64_t head) const {
    const float zeros[kColumns] = {};
    for (int64_t t = 0; t < s_.length; ++t) {
      store_columns(out.at(s_, t, head), out.dtype, zeros);
    }
  }

  // S <- exp(g) S; v_new = beta (v - S k); S <- S + v_new k^T; out = scale S q, of which both sums
  // over K are taken from S before the token, where its loads have just come in.
  __device__ __forceinline__ void step(const float (&k)[kPerLane], const float (&q)[kPerLane], float kq,
                       const Gate& gate, float scale, const float (&v)[kColumns],
                       float (&v_new)[kColumns], float (&out)[kColumns]) {
    const float decay = decay_of(gate.g);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      float with_k = 0, with_q = 0;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        s[c][i] = __fmul_rn(decay, s[c][i]);
        with_k = __fmaf_rn(s[c][i], k[i], with_k);
        with_q = __fmaf_rn(s[c][i], q[i], with_q);
      }
      v_new[c] = __fmul_rn(gate.beta, __fsub_rn(v[c], Map::sum(with_k)));
      out[c] = __fmul_rn(scale, __fmaf_rn(v_new[c], kq, Map::sum(with_q)));
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) s[c][i] = __fmaf_rn(v_new[c], k[i], s[c][i]);
    }
  }

  // S <- exp(g) S + v_new k^T.
  __device__ __forceinline__ void fold(float g, const float (&v_new)[kColumns], const float (&k)[kPerLane]) {
    const float decay = decay_of(g);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        s[c][i] = __fmaf_rn(v_new[c], k[i], __fmul_rn(decay, s[c][i]));
      }
    }
  }
};

// Blocks of 128 threads that should fit on a multiprocessor: enough loads in flight.
constexpr int resident_blocks(int per_lane) { return per_lane == 32 ? 2 : 3; }

// A warp's place in the grid of a delta-rule kernel over (sequence, value head, part of V).
struct WarpPlace {
  uint32_t n, head, part;
  __device__ WarpPlace(uint32_t heads, uint32_t parts) {
    const uint32_t warp = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    part = warp % parts;
    head = warp / parts % heads;
    n = warp / parts / heads;
  }
};

// Warps of a block: one where there is little work, so that it spreads over the multiprocessors.
inline int warps_per_block(int64_t warps, int multiprocessors) {
  return warps >= int64_t{16} * multiprocessors ? 4 : 1;
}

// Calls body(T(), bool_constant<kVK>, integral_constant<int, kPerLane>).
template <class Body>
auto with_tile(DType state, StateLayout layout, int64_t K, const Body& body) {
  const auto by_size = [&](auto element, auto vk) {
    switch (elements_per_lane(K)) {
      case 8:
        return body(element, vk, std::integral_constant<int, 8>());
      case 16:
        return body(element, vk, std::integral_constant<int, 16>());
      default:
        return body(element, vk, std::integral_constant<int, 32>());
    }
  };
  return with_element(state, [&](auto element) {
    return layout == StateLayout::kVK ? by_size(element, std::true_type())
                                      : by_size(element, std::false_type());
  });
}

}  // namespace gdn::cuda
