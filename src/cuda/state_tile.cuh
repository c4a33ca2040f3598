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

#include "cuda/divisor.cuh"
#include "cuda/element.cuh"
#include "cuda/gates.cuh"
#include "cuda/token_stage.cuh"
#include "problem.h"

namespace gdn::cuda {

// What kernels of plain tiles and rows ask of tensors: whether every row begins at a multiple of
// four elements, every slot at one of some bytes.
inline bool rows_of_fours(const TokenTensor& x) {
  return is_aligned(x.data, 4 * size_of(x.dtype)) && x.batch_stride % 4 == 0 &&
         x.token_stride % 4 == 0 && x.head_stride % 4 == 0;
}
inline bool slots_aligned(const SlotTensor& x, int64_t bytes) {
  return is_aligned(x.data, bytes) && x.slot_stride * size_of(x.dtype) % bytes == 0;
}

constexpr int kLanesPerColumn = 8;
constexpr int kColumnGroups = kWarp / kLanesPerColumn;

// Elements of K that a lane has: 8, 16 or 32.
inline int elements_per_lane(int64_t K) { return K <= 64 ? 8 : K <= 128 ? 16 : 32; }
// V columns of a warp, so that state, k and q fit in the registers.
constexpr int columns_per_lane(int per_lane) { return per_lane == 32 ? 2 : 4; }
constexpr int columns_per_warp(int per_lane) { return columns_per_lane(per_lane) * kColumnGroups; }

// Registers of a number of bytes.
template <int kBytes>
struct PieceOf;
template <>
struct PieceOf<16> {
  using Type = uint4;
};
template <>
struct PieceOf<8> {
  using Type = uint2;
};
template <>
struct PieceOf<4> {
  using Type = uint32_t;
};

// kPlain: the caller has made sure that every tile is whole and every state of dtype T.
template <class T, bool kVK, int kPerLane, bool kPlain = false,
          int kColumnsPerLane = columns_per_lane(kPerLane)>
struct StateTile {
  static constexpr int kColumns = kColumnsPerLane;
  static constexpr int kElements = kPerLane;  // of K, of the lane
  static constexpr int kWarpColumns = kColumns * kColumnGroups;
  // A piece is what one load brings: elements of K, or columns, that lie side by side.
  static constexpr int kPiece = kVK ? Vector16<T>::kCount : kColumns;
  static constexpr int kPieces = kColumns * kPerLane / kPiece;
  using Piece = typename PieceOf<kPiece* static_cast<int>(sizeof(T))>::Type;
  union PieceElements {
    Piece piece;
    T element[kPiece];
  };
  struct Loaded {
    Piece pieces[kPieces];
  };

  int K, V;
  int lane, group, member;
  int v0;  // the lane's first column
  float s[kColumns][kPerLane];

  __device__ __forceinline__ StateTile(int k, int v, int first_column) : K(k), V(v) {
    lane = static_cast<int>(threadIdx.x) % kWarp;
    group = kVK ? lane / kLanesPerColumn : lane % kColumnGroups;
    member = kVK ? lane % kLanesPerColumn : lane / kColumnGroups;
    v0 = first_column + group * kColumns;
  }

  // Column and element of K of a piece's first element, both of the lane's own.
  static __device__ __forceinline__ int column_of(int piece) {
    return kVK ? piece / (kPerLane / kPiece) : 0;
  }
  static __device__ __forceinline__ int element_of(int piece) {
    return kVK ? piece % (kPerLane / kPiece) * kPiece : piece;
  }
  // Where element i of the lane is in a row of K.
  __device__ __forceinline__ int k_of(int i) const {
    return kVK ? (member + kLanesPerColumn * (i / kPiece)) * kPiece + i % kPiece
               : member * kPerLane + i;
  }
  // Over the lanes of a column.
  static __device__ __forceinline__ float sum(float x) {
    return kVK ? sum_over_lanes<1, 4>(x) : sum_over_lanes<4, 16>(x);
  }

  // Elements of a piece that exist, and where it begins in the head. `row` is the slot's stride.
  __device__ __forceinline__ int valid_in(int piece) const {
    const int v = v0 + column_of(piece), k = k_of(element_of(piece));
    return kVK ? (v < V ? K - k : 0) : (k < K ? V - v : 0);
  }
  __device__ __forceinline__ int begin_of(int piece, int row) const {
    const int v = v0 + column_of(piece), k = k_of(element_of(piece));
    return kVK ? v * row + k : k * row + v;
  }
  // Whether all lanes of the warp have all their elements, side by side in whole pieces: then a
  // place is a base and a constant, or a constant times the stride.
  static constexpr int kWholeK = kPerLane * kLanesPerColumn;
  template <class E>
  __device__ __forceinline__ bool is_whole(const E* head) const {
    if constexpr (kPlain) return true;
    const int columns_end = v0 - group * kColumns + kWarpColumns;
    return K == kWholeK && columns_end <= V && by_vectors(head);
  }
  template <class E>
  __device__ __forceinline__ E* whole_base(E* head) const {
    return head + (kVK ? v0 * kWholeK + member * kPiece : member * kPerLane * V + v0);
  }
  // Of a piece, from the base.
  static __device__ __forceinline__ int whole_offset(int piece, int V) {
    return kVK ? column_of(piece) * kWholeK + element_of(piece) * kLanesPerColumn
               : element_of(piece) * V;
  }

  template <class E>
  __device__ __forceinline__ bool by_vectors(const E* head) const {
    constexpr int kBytes = kPiece * static_cast<int>(sizeof(E));
    return (kVK ? K : V) % kPiece == 0 && is_aligned(head, kBytes < 16 ? kBytes : 16);
  }

  // Begins the loads from the first element of a value head; nullptr (not with kPlain): zeros.
  // Nothing waits for them before unpack().
  __device__ __forceinline__ void begin_load(const std::byte* from, Loaded& loaded) const {
    const T* head = reinterpret_cast<const T*>(from);
    const bool given = head != nullptr;
    const int row = kVK ? K : V;
    if (kPlain || (given && is_whole(head))) {
      const T* base = whole_base(head);
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        loaded.pieces[i] = __ldcs(reinterpret_cast<const Piece*>(base + whole_offset(i, V)));
      }
    } else if (!given || by_vectors(head)) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        loaded.pieces[i] = Piece{};
        if (given && valid_in(i) > 0) {
          loaded.pieces[i] = __ldcs(reinterpret_cast<const Piece*>(head + begin_of(i, row)));
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        PieceElements elements;
        elements.piece = Piece{};
        const int valid = valid_in(i);
#pragma unroll
        for (int e = 0; e < kPiece; ++e) {
          if (e < valid) elements.element[e] = head[begin_of(i, row) + e];
        }
        loaded.pieces[i] = elements.piece;
      }
    }
  }
  // Calls fetch(p) with an address in every line of 128 bytes that begin_load() reads of a whole
  // tile.
  template <class Fetch>
  __device__ __forceinline__ void each_line(const T* head, const Fetch& fetch) const {
    constexpr int kLine = 128 / static_cast<int>(sizeof(T));
    const int first = v0 - group * kColumns;
    if constexpr (kVK) {
      constexpr int kLines = kWarpColumns * kWholeK / kLine;
      const T* begin = head + first * kWholeK;
#pragma unroll
      for (int i = 0; i < kLines; i += kWarp) {
        if (kLines % kWarp == 0 || i + lane < kLines) fetch(begin + (i + lane) * kLine);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kWholeK; k += kWarp) fetch(head + (k + lane) * V + first);
    }
  }
  __device__ __forceinline__ void unpack(const Loaded& loaded) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      PieceElements elements;
      elements.piece = loaded.pieces[i];
#pragma unroll
      for (int e = 0; e < kPiece; ++e) {
        s[column_of(i) + (kVK ? 0 : e)][element_of(i) + (kVK ? e : 0)] =
            to_float(elements.element[e]);
      }
    }
  }

  // Past the caches: a step later it is in memory anyway.
  template <class E>
  static __device__ __forceinline__ void store_whole(E* to, const float (&part)[kPiece]) {
    constexpr int kBytes = kPiece * static_cast<int>(sizeof(E));
    constexpr int kStore = kBytes < 16 ? kBytes : 16, kEach = kStore / static_cast<int>(sizeof(E));
    using Bits = typename PieceOf<kStore>::Type;
#pragma unroll
    for (int at = 0; at < kPiece; at += kEach) {
      union {
        Bits bits;
        E element[kEach];
      } packed;
#pragma unroll
      for (int e = 0; e < kEach; ++e) packed.element[e] = from_float<E>(part[at + e]);
      __stcs(reinterpret_cast<Bits*>(to + at), packed.bits);
    }
  }

  // A piece of the state as it is now.
  __device__ __forceinline__ void piece_of(int piece, float (&part)[kPiece]) const {
#pragma unroll
    for (int e = 0; e < kPiece; ++e) {
      part[e] = s[column_of(piece) + (kVK ? 0 : e)][element_of(piece) + (kVK ? e : 0)];
    }
  }
  // To a slot of the tile's own dtype, all of it. The stride is opaque to the compiler, which would
  // else keep every offset in registers over all tokens.
  __device__ __forceinline__ void store(std::byte* to) const {
    static_assert(kPlain);
    int row = V;
    asm volatile("" : "+r"(row));
    T* base = whole_base(reinterpret_cast<T*>(to));
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      float part[kPiece];
      piece_of(i, part);
      store_whole(base + whole_offset(i, row), part);
    }
  }
  // To a slot of any dtype.
  __device__ __forceinline__ void store(std::byte* to, DType dtype) const {
    int row = kVK ? K : V;
    asm volatile("" : "+r"(row));
    with_element(dtype, [&](auto element) {
      using E = decltype(element);
      E* head = reinterpret_cast<E*>(to);
      const bool whole = is_whole(head), vectors = by_vectors(head);
      E* base = whole_base(head);
      if (whole) {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
          float part[kPiece];
          piece_of(i, part);
          store_whole(base + whole_offset(i, row), part);
        }
        return;
      }
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        float part[kPiece];
        piece_of(i, part);
        store_run(head + begin_of(i, row), valid_in(i), vectors, part);
      }
    });
  }

  // The lane's elements of a row of K, its columns of a row of V, in shared memory.
  __device__ __forceinline__ void load_row(const float* row, float (&x)[kPerLane]) const {
#pragma unroll
    for (int i = 0; i < kPerLane; i += 4) {
      const float4 part = *reinterpret_cast<const float4*>(row + k_of(i));
      x[i] = part.x, x[i + 1] = part.y, x[i + 2] = part.z, x[i + 3] = part.w;
    }
  }
  __device__ __forceinline__ void load_columns(const float* row, float (&x)[kColumns]) const {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) x[c] = v0 + c < V ? row[v0 + c] : 0.0f;
  }
  // Columns that all lanes of a column know: each of the first lanes stores one.
  __device__ __forceinline__ void store_columns(std::byte* row, DType dtype,
                                                const float (&x)[kColumns]) const {
    float mine = x[0];
    if constexpr (kColumns >= 2) mine = member == 1 ? x[1] : mine;
    if constexpr (kColumns == 4) {
      mine = member == 2 ? x[2] : mine;
      mine = member == 3 ? x[3] : mine;
    }
    const int v = v0 + member;
    if (member < kColumns && v < V) store_element(row, dtype, mine, v);
  }
  template <class Rows>  // TokenTensor, or with its dtype and at()
  __device__ __forceinline__ void zero_columns(const Rows& out, const Sequence& rows,
                                               int64_t head) const {
    const float zeros[kColumns] = {};
    for (int64_t t = 0; t < rows.length; ++t) {
      store_columns(out.at(rows, t, head), out.dtype, zeros);
    }
  }

  // S <- decay S; v_new = beta (v - S k); S <- S + v_new k^T; out = scale S q.
  __device__ __forceinline__ void step(const float (&k)[kPerLane], const float (&q)[kPerLane],
                                       float decay, float beta, float scale,
                                       const float (&v)[kColumns], float (&v_new)[kColumns],
                                       float (&out)[kColumns]) {
    float kq = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) kq = __fmaf_rn(k[i], q[i], kq);
    kq = sum(kq);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      float with_k = 0, with_q = 0;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        s[c][i] = __fmul_rn(decay, s[c][i]);
        with_k = __fmaf_rn(s[c][i], k[i], with_k);
        with_q = __fmaf_rn(s[c][i], q[i], with_q);
      }
      v_new[c] = __fmul_rn(beta, __fsub_rn(v[c], sum(with_k)));
      out[c] = __fmul_rn(scale, __fmaf_rn(v_new[c], kq, sum(with_q)));
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) s[c][i] = __fmaf_rn(v_new[c], k[i], s[c][i]);
    }
  }

  // What the lanes of a column are to know of it alone: of the lane's column own_column(), S k and
  // S q. Eight sums over eight lanes need as many exchanges as one, when each halves what a lane
  // still has to do.
  static constexpr int kLanesOfOne = kLanesPerColumn / 2 / kColumns;  // that have the same column
  __device__ __forceinline__ int own_column() const { return member % 4 / kLanesOfOne; }
  // Of the lanes that have the same, the one to store the first or the second of two results.
  __device__ __forceinline__ bool stores_first() const {
    return member < 4 && member % kLanesOfOne == 0;
  }
  __device__ __forceinline__ bool stores_second() const {
    return member >= 4 && member % kLanesOfOne == 0;
  }
  // The lane `bit` members away.
  static __device__ __forceinline__ float exchange(float x, int bit) {
    return __shfl_xor_sync(kAllLanes, x, kVK ? bit : bit * kColumnGroups);
  }
  // The sums of the lanes `bit` apart: of `low` in those without that bit, of `high` in the others.
  __device__ __forceinline__ float halve(float low, float high, int bit) const {
    const bool upper = (member & bit) != 0;
    return __fadd_rn(upper ? high : low, exchange(upper ? low : high, bit));
  }
  __device__ __forceinline__ void products(const float (&k)[kPerLane], const float (&q)[kPerLane],
                                           float* with_k, float* with_q) const {
    float part[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      float sk = 0, sq = 0;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        sk = __fmaf_rn(s[c][i], k[i], sk);
        sq = __fmaf_rn(s[c][i], q[i], sq);
      }
      part[c] = halve(sk, sq, 4);
    }
    float mine;
    if constexpr (kColumns == 4) {
      mine = halve(halve(part[0], part[2], 2), halve(part[1], part[3], 2), 1);
    } else {
      mine = halve(part[0], part[1], 2);
      mine = __fadd_rn(mine, exchange(mine, 1));
    }
    const float other = exchange(mine, 4);
    *with_k = member < 4 ? mine : other;
    *with_q = member < 4 ? other : mine;
  }
  // Of each of the lane's columns, what the lane that owns it has.
  __device__ __forceinline__ void spread(float x, float (&columns)[kColumns]) const {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int owner = c * kLanesOfOne;
      columns[c] = __shfl_sync(
          kAllLanes, x, kVK ? group * kLanesPerColumn + owner : owner * kColumnGroups + group);
    }
  }

  // S <- factor S.
  __device__ __forceinline__ void scale(float factor) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) s[c][i] = __fmul_rn(factor, s[c][i]);
    }
  }
  // S <- S + x k^T.
  __device__ __forceinline__ void add(const float (&x)[kColumns], const float (&k)[kPerLane]) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) s[c][i] = __fmaf_rn(x[c], k[i], s[c][i]);
    }
  }
};

// The grid of a delta-rule kernel: blocks of some warps of one (sequence, value head), each warp
// with columns of its own.
struct BlockGrid {
  int64_t blocks = 0;
  int warps = 1;
  Divisor blocks_per_head, value_heads, group;  // group: value heads of a q/k head

  // One warp a block where there is little work, so that it spreads over the multiprocessors.
  static BlockGrid of(const Shape& shape, int64_t sequences, int warp_columns, int multiprocessors,
                      int most_warps = 4) {
    BlockGrid grid;
    const int64_t heads = sequences * shape.value_heads;
    const int64_t parts = (shape.V + warp_columns - 1) / warp_columns;
    const bool spread = heads * parts < int64_t{16} * multiprocessors;
    grid.warps = spread ? 1 : static_cast<int>(parts < most_warps ? parts : most_warps);
    const int64_t blocks_per_head = (parts + grid.warps - 1) / grid.warps;
    grid.blocks = heads * blocks_per_head;
    grid.blocks_per_head = Divisor(blocks_per_head);
    grid.value_heads = Divisor(shape.value_heads);
    grid.group = Divisor(shape.value_heads / shape.heads);
    return grid;
  }
};
struct BlockPlace {
  uint32_t n, head, qk_head;
  uint32_t block;  // of the head
  uint32_t part;   // of the warp
  __device__ __forceinline__ explicit BlockPlace(const BlockGrid& grid) {
    const uint32_t all = grid.blocks_per_head.divide(blockIdx.x);
    block = blockIdx.x - all * grid.blocks_per_head.value;
    part = block * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    n = grid.value_heads.divide(all);
    head = all - n * grid.value_heads.value;
    qk_head = grid.group.divide(head);
  }
  // V columns of the block's warps, of `per_warp` each.
  __device__ __forceinline__ Columns columns(int per_warp, int V) const {
    const int per_block = static_cast<int>(blockDim.x) / kWarp * per_warp;
    const int begin = static_cast<int>(block) * per_block;
    return {begin, begin + per_block < V ? begin + per_block : V};
  }
};

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
