// A token of a sequence and value head in the registers of a warp, as its state tile has the rows
// of K and the columns of V: loads that begin as bits, and what becomes of them. Every lane of a
// column has its own elements of k and q, so that a norm is a sum as the tile's are.
#pragma once

#include <cstdint>

#include "cuda/element.cuh"
#include "cuda/gates.cuh"
#include "cuda/state_tile.cuh"
#include "problem.h"

namespace gdn::cuda {

// Where the parts of a token of a value head are; nullptr: not given.
struct TokenPlaces {
  const std::byte *k, *q, *v;
  const std::byte *decay, *strength;  // g or a; beta or b
  std::byte* out;
};
__device__ __forceinline__ TokenPlaces places_of(const DeltaRuleProblem& p, const Sequence& s,
                                                 int64_t t, int64_t head, int64_t qk_head) {
  const auto row = [&](const TokenTensor& x) { return x.given() ? x.at(s, t, head) : nullptr; };
  return {p.k.at(s, t, qk_head),     p.q.at(s, t, qk_head),        p.v.at(s, t, head),
          row(decay_input(p.gates)), row(strength_input(p.gates)), p.out.at(s, t, head)};
}

// The same with strides in bytes that fit into 32 bits: a third of the instructions.
struct NarrowRows {
  std::byte* data = nullptr;
  int32_t batch = 0, token = 0, head = 0;
  DType dtype = DType::kF32;

  NarrowRows() = default;
  explicit NarrowRows(const TokenTensor& x)
      : data(x.data),
        batch(bytes(x, x.batch_stride)),
        token(bytes(x, x.token_stride)),
        head(bytes(x, x.head_stride)),
        dtype(x.dtype) {}
  static bool fits(const TokenTensor& x) {
    const auto narrow = [&](int64_t stride) {
      const int64_t all = stride * size_of(x.dtype);
      return all <= INT32_MAX && all >= INT32_MIN;
    };
    return narrow(x.batch_stride) && narrow(x.token_stride) && narrow(x.head_stride);
  }
  __device__ __forceinline__ std::byte* at(const Sequence& s, int64_t t, int64_t h) const {
    const auto n = static_cast<int32_t>(s.batch), row = static_cast<int32_t>(s.begin + t);
    return data + int64_t{n} * batch + int64_t{row} * token +
           int64_t{static_cast<int32_t>(h)} * head;
  }

 private:
  static int32_t bytes(const TokenTensor& x, int64_t stride) {
    return static_cast<int32_t>(stride * size_of(x.dtype));
  }
};
struct NarrowTokens {
  NarrowRows k, q, v, decay, strength, out;

  NarrowTokens() = default;
  explicit NarrowTokens(const DeltaRuleProblem& p)
      : k(p.k),
        q(p.q),
        v(p.v),
        decay(decay_input(p.gates)),
        strength(strength_input(p.gates)),
        out(p.out) {}
  static bool fit(const DeltaRuleProblem& p) {
    return NarrowRows::fits(p.k) && NarrowRows::fits(p.q) && NarrowRows::fits(p.v) &&
           NarrowRows::fits(decay_input(p.gates)) && NarrowRows::fits(strength_input(p.gates)) &&
           NarrowRows::fits(p.out) && p.sequences.row_length <= INT32_MAX;
  }
  __device__ __forceinline__ TokenPlaces places(const Sequence& s, int64_t t, int64_t value_head,
                                                int64_t qk_head) const {
    return {k.at(s, t, qk_head),        q.at(s, t, qk_head),           v.at(s, t, value_head),
            decay.at(s, t, value_head), strength.at(s, t, value_head), out.at(s, t, value_head)};
  }
};

// kPlain: rows are whole and begin at a multiple of 4 elements. Problem is DeltaRuleProblem, or has
// its tokens, gates and norm.
enum class RowsOf { kAny, kF32, k16Bit };  // what is known of the rows' dtype
template <class Tile, int kPerLane, bool kPlain, RowsOf kRows = RowsOf::kAny>
struct TokenRows {
  static constexpr int kFours = kPerLane / 4;
  static constexpr int kColumns = Tile::kColumns;

  // A token on its way: nothing waits for it before finish().
  FourElements k_bits[kFours], q_bits[kFours], v_bits;
  GateBits gate_bits;

  float k[kPerLane], q[kPerLane], v[kColumns];
  float decay, beta;

  static __device__ __forceinline__ bool is_wide(DType dtype) {
    return kRows == RowsOf::kF32 || (kRows == RowsOf::kAny && dtype == DType::kF32);
  }
  static __device__ __forceinline__ void begin_row(const Tile& tile, const std::byte* row,
                                                   DType dtype, FourElements (&bits)[kFours]) {
    const bool whole = kPlain || tile.K == Tile::kWholeK;
    if (whole && is_wide(dtype) && (kPlain || is_aligned(row, 16))) {
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        bits[i].bits = *reinterpret_cast<const uint4*>(row + 4 * tile.k_of(4 * i));
      }
    } else if (whole && !is_wide(dtype) && (kPlain || is_aligned(row, 8))) {
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        const uint2 two = *reinterpret_cast<const uint2*>(row + 2 * tile.k_of(4 * i));
        bits[i].bits.x = two.x;
        bits[i].bits.y = two.y;
      }
    } else if constexpr (!kPlain) {
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        const int at = tile.k_of(4 * i);
        bits[i] = load_four(row, dtype, at, tile.K - at);
      }
    }
  }
  __device__ __forceinline__ void begin_values(const Tile& tile, const std::byte* row,
                                               DType dtype) {
    if constexpr (kPlain) {
      // Two or four columns, side by side.
      using Wide = typename PieceOf<4 * kColumns>::Type;
      using Half = typename PieceOf<2 * kColumns>::Type;
      if (is_wide(dtype)) {
        put(*reinterpret_cast<const Wide*>(row + 4 * tile.v0));
      } else {
        put(*reinterpret_cast<const Half*>(row + 2 * tile.v0));
      }
    } else {
      const int columns = tile.V - tile.v0;
      v_bits = load_four(row, dtype, tile.v0, columns < kColumns ? columns : kColumns);
    }
  }
  __device__ __forceinline__ void put(uint4 bits) { v_bits.bits = bits; }
  __device__ __forceinline__ void put(uint2 bits) {
    v_bits.bits.x = bits.x;
    v_bits.bits.y = bits.y;
  }
  __device__ __forceinline__ void put(uint32_t bits) { v_bits.bits.x = bits; }

  template <class Problem>
  __device__ __forceinline__ void begin(const Tile& tile, const Problem& p,
                                        const TokenPlaces& places, int64_t head) {
    begin_row(tile, places.k, p.k.dtype, k_bits);
    begin_row(tile, places.q, p.q.dtype, q_bits);
    begin_values(tile, places.v, p.v.dtype);
    gate_bits = load_gate_bits(p.gates, places.decay, places.strength, head);
  }

  // To the first-level cache.
  static __device__ __forceinline__ void prefetch_row(const std::byte* row, DType dtype,
                                                      int elements) {
    const int at = static_cast<int>(threadIdx.x) % kWarp * 32;
    if (at < elements * static_cast<int>(size_of(dtype))) {
      asm volatile("prefetch.global.L1 [%0];" ::"l"(row + at));
    }
  }
  template <class Problem>
  __device__ __forceinline__ void prefetch(const Tile& tile, const Problem& p,
                                           const TokenPlaces& places) const {
    prefetch_row(places.k, p.k.dtype, tile.K);
    prefetch_row(places.q, p.q.dtype, tile.K);
    prefetch_row(places.v, p.v.dtype, tile.V);
  }

  static __device__ __forceinline__ void finish_row(const FourElements (&bits)[kFours], DType dtype,
                                                    float (&x)[kPerLane]) {
    // The branch around the loop: one for a row.
    if (is_wide(dtype)) {
#pragma unroll
      for (int i = 0; i < kFours; ++i) to_floats(bits[i], DType::kF32, x + 4 * i);
    } else if (dtype == DType::kBF16) {
#pragma unroll
      for (int i = 0; i < kFours; ++i) to_floats(bits[i], DType::kBF16, x + 4 * i);
    } else {
#pragma unroll
      for (int i = 0; i < kFours; ++i) to_floats(bits[i], DType::kF16, x + 4 * i);
    }
  }
  static __device__ __forceinline__ void l2norm(float (&x)[kPerLane], float eps) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) total = __fmaf_rn(x[i], x[i], total);
    const float factor = norm_factor(Tile::sum(total), eps);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] = __fmul_rn(x[i], factor);
  }

  template <class Problem>
  __device__ __forceinline__ void finish(const Problem& p) {
    finish_row(k_bits, p.k.dtype, k);
    finish_row(q_bits, p.q.dtype, q);
    finish_rest(p);
  }
  // The same as begin() and finish(), row by row: fewer registers, and a wait for each.
  template <class Problem>
  __device__ __forceinline__ void load(const Tile& tile, const Problem& p,
                                       const TokenPlaces& places, int64_t head) {
    begin_row(tile, places.k, p.k.dtype, k_bits);
    finish_row(k_bits, p.k.dtype, k);
    begin_row(tile, places.q, p.q.dtype, q_bits);
    finish_row(q_bits, p.q.dtype, q);
    begin_values(tile, places.v, p.v.dtype);
    gate_bits = load_gate_bits(p.gates, places.decay, places.strength, head);
    finish_rest(p);
  }
  template <class Problem>
  __device__ __forceinline__ void finish_rest(const Problem& p) {
    if (p.use_qk_l2norm) {
      l2norm(k, p.l2norm_eps);
      l2norm(q, p.l2norm_eps);
    }
    float four[4];
    if (is_wide(p.v.dtype)) {
      to_floats(v_bits, DType::kF32, four);
    } else {
      to_floats(v_bits, p.v.dtype == DType::kBF16 ? DType::kBF16 : DType::kF16, four);
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) v[c] = four[c];
    const Gate gate = gate_of(p.gates, gate_bits);
    decay = decay_of(gate.g);
    beta = gate.beta;
  }
};

}  // namespace gdn::cuda
