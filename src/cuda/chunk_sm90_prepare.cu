// The first kernel of the chunk operator on Hopper: the records (chunk_sm90_record.h) of all chunks.
// A block of four warps has a chunk and up to four value heads of a q/k head: k and q to shared
// memory, their Gram matrices by wgmma, and for each value head the decays, the masked matrices and
// the exact inverse (chunk_sm90_inverse.cuh). docs/kernels/chunk-sm90.md describes it.
#include <cfloat>

#include "cuda/chunk_sm90_inverse.cuh"
#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/chunk_table.cuh"
#include "cuda/dependent.cuh"
#include "cuda/gates.cuh"
#include "cuda/hopper.cuh"
#include "cuda/launch.h"
#include "cuda/mma.cuh"
#include "cuda/wgmma.cuh"

namespace gdn::cuda::sm90 {
namespace {

constexpr int kThreads = kTiles * kWarp;
constexpr int kHeadsAtMost = kTiles;  // of a block: a warp has the gates of one
constexpr int kPanelBytes = kChunk * 128;  // 64 columns of k or q, as wgmma wants them

// Of a value head, from its gates alone. Exponents are those of 2. Between two blocks of 16 rows
// D_ij is the product of two factors that meet at the first row of i's block: a factor a row and a
// factor a column in place of an exponential an element.
struct alignas(16) HeadGates {
  float2 G[kChunk];      // a sum of two floats, for differences of any two
  float row[kChunk];     // exp(G_i - G_first)
  float column[kPlaces * kTile];  // exp(G_first - G_j), j before the rows of block w: from 8 w (w-1)
  float from_start[kChunk], to_end[kChunk];  // exp(G_i), exp(G_C - G_i)
  float beta[kChunk];                        // over T_power
  float decay, T_power;
  bool steep;  // a decay may pass what the products of two factors hold
};

struct Shared {
  union {
    std::byte rows[4 * kPanelBytes];  // k, then q
    struct {
      HeadRecord record;
      TilePlace B[kPlaces];
    };
  };
  DiagonalPlace diagonal[kTiles];
  float k_norm[kChunk], q_norm[kChunk];  // kn and qn of the record; 0 past the end
  float k_power[kChunk], k_power_inverse[kChunk];
  uint32_t largest[kTiles];  // bits of |P|, float16, of the warps; float32 where it is computed anew
  bool infinite[kTiles];     // in T, of the warps
  HeadGates heads[];
};
static_assert(offsetof(Shared, record.T_high) % 1024 == 0);

__device__ __forceinline__ float exp2_quick(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
// At most the largest float, so that a product with zero is zero; NaN passes.
__device__ __forceinline__ float exp2_finite(float x) {
  const float e = exp2_quick(x);
  return e > FLT_MAX ? FLT_MAX : e;
}

// --- Loads

// Rows of k or q of the chunk to shared memory, zeros past the end; a thread has 16 bytes of a row.
template <class T, int K>
struct RowLoader {
  static constexpr int kParts = K / 8;
  static constexpr int kStep = kThreads / kParts;  // rows at once

  const Sequence& s;
  int64_t t0, head;
  int rows;  // that exist

  __device__ __forceinline__ void start(const TokenTensor& x, uint32_t tile) const {
    const int part = static_cast<int>(threadIdx.x) % kParts;
    const int first = static_cast<int>(threadIdx.x) / kParts;
    const std::byte* from = x.at(s, t0 + first, head) + part * 16;
    const int64_t step = x.token_stride * 2 * kStep;
    const uint32_t to = tile + part / 8 * kPanelBytes + swizzled(first, part % 8 * 8);
    if (is_aligned(from, 16) && x.token_stride % 8 == 0) {
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

// --- Gates: a warp a value head, a lane tokens 2 lane and 2 lane + 1.

struct LaneGates {
  GateBits bits[2];
  bool valid[2];

  __device__ __forceinline__ void load(const GateInputs& gates, const Sequence& s, int64_t t0,
                                       int64_t head, int lane) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t t = t0 + 2 * lane + e;
      valid[e] = t < s.length;
      bits[e] = {};
      if (valid[e]) bits[e] = load_gate_bits(gates, s, t, head);
    }
  }
};

__device__ __forceinline__ void store_pair(float* to, int lane, float a, float b) {
  reinterpret_cast<float2*>(to)[lane] = {a, b};
}

__device__ __forceinline__ void fill_gates(HeadGates& h, const GateInputs& gates,
                                           const LaneGates& loaded, int lane) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr float kSteep = 40;           // exp(40) squared is finite
  constexpr float kFaint = 1.0f / 1024;  // a beta below loses digits in float16
  float g[2], beta[2];
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    Gate gate{0, 0};
    if (loaded.valid[e]) gate = gate_of(gates, loaded.bits[e]);
    g[e] = gate.g < kLeastDecay ? kLeastDecay : gate.g;
    beta[e] = gate.beta;
  }
  double sum = static_cast<double>(g[0]) + static_cast<double>(g[1]);
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double before = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += before;
  }
  const double total = __shfl_sync(kAllLanes, sum, kWarp - 1);
  double before = __shfl_up_sync(kAllLanes, sum, 1);
  if (lane == 0) before = 0;
  const double G[2] = {(before + static_cast<double>(g[0])) * kLog2E, sum * kLog2E};
  const double end = total * kLog2E;

  bool steep = false;
  if (__any_sync(kAllLanes, g[0] > 0 || g[1] > 0)) {
    float rise = fmaxf(g[0], 0.0f) + fmaxf(g[1], 0.0f);
#pragma unroll
    for (int bit = 1; bit < kWarp; bit *= 2) rise += __shfl_xor_sync(kAllLanes, rise, bit);
    steep = !(rise < kSteep);
  }

  const auto exponentials = [&](float* to, double sign, double from) {
    store_pair(to, lane, exp2_finite(static_cast<float>(sign * (G[0] - from))),
               exp2_finite(static_cast<float>(sign * (G[1] - from))));
  };
  float high[2], low[2];
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    high[e] = static_cast<float>(G[e]);
    low[e] = static_cast<float>(G[e] - static_cast<double>(high[e]));
  }
  reinterpret_cast<float4*>(h.G)[lane] = {high[0], low[0], high[1], low[1]};
  exponentials(h.from_start, 1, 0);
  exponentials(h.to_end, -1, end);
  constexpr int kLanesPerTile = kTile / 2;
  exponentials(h.row, 1, __shfl_sync(kAllLanes, G[0], lane / kLanesPerTile * kLanesPerTile));
#pragma unroll
  for (int w = 1; w < kTiles; ++w) {
    const double first = __shfl_sync(kAllLanes, G[0], w * kLanesPerTile);
    if (lane < w * kLanesPerTile) exponentials(h.column + place_of(w, 0) * kTile, -1, first);
  }

  // Scaled up where all are faint; NaN and infinity count as large.
  const uint32_t largest = __reduce_max_sync(
      kAllLanes, max(__float_as_uint(beta[0]) & 0x7fffffffu, __float_as_uint(beta[1]) & 0x7fffffffu));
  const float power =
      largest < __float_as_uint(kFaint) ? power_of_two(__uint_as_float(largest)) : 1.0f;
  const float inverse = inverse_power(power);
  store_pair(h.beta, lane, beta[0] * inverse, beta[1] * inverse);
  if (lane == 0) {
    h.decay = fminf(decay_of(static_cast<float>(total)), FLT_MAX);
    if (!(total == total)) h.decay = static_cast<float>(total);
    h.T_power = power;
    h.steep = steep;
  }
}

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

// A power of two p such that |k| p is in [1, 2); 1 where |k|^2 is 0 or not finite.
__device__ __forceinline__ float row_power(float square) {
  const uint32_t bits = __float_as_uint(square);
  if (bits < 0x00800000u || bits >= 0x7f800000u) return 1.0f;
  const int exponent = static_cast<int>(bits >> 23) - 127;
  return __uint_as_float(static_cast<uint32_t>(127 - (exponent >> 1)) << 23);
}

// --- The masked matrices

// Rows 16 warp + lane / 4 and 8 further; columns 2 (lane % 4) and the next of every eight.
struct LanePlace {
  int warp, lane, i0, i1, column;
  __device__ __forceinline__ LanePlace()
      : warp(__shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarp, 0)),
        lane(static_cast<int>(threadIdx.x) % kWarp),
        i0(warp * kTile + lane / 4),
        i1(i0 + 8),
        column(lane % 4 * 2) {}
};

// What the warp of rows 16 W to 16 W + 15 makes of its Gram rows: of P and of B the blocks left of
// the diagonal, and those on it. P packed, in blocks of 16 columns.
template <int W>
struct MaskedRows {
  uint32_t P[W + 1][4];
  SplitPair below;  // the lower left part of B on the diagonal

  __device__ __forceinline__ void make(const float (&kk)[32], const float (&qk)[32], Shared& m,
                                       const HeadGates& h, float scale, const LanePlace& at) {
    const float power = h.T_power;
    const float k0 = power * m.k_norm[at.i0], k1 = power * m.k_norm[at.i1];
    const float q0 = scale * m.q_norm[at.i0], q1 = scale * m.q_norm[at.i1];
    const float row0 = h.row[at.i0], row1 = h.row[at.i1];
    const float k_row0 = k0 * row0, k_row1 = k1 * row1, q_row0 = q0 * row0, q_row1 = q1 * row1;
    const auto k_norm = [&](int n) {
      return *reinterpret_cast<const float2*>(m.k_norm + 8 * n + at.column);
    };
#pragma unroll
    for (int tile = 0; tile < W; ++tile) {
      SplitTile B;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int n = 2 * tile + half;
        const float2 norm = k_norm(n);
        float2 f = *reinterpret_cast<const float2*>(h.column + place_of(W, 0) * kTile + 8 * n +
                                                    at.column);
        f.x *= norm.x;
        f.y *= norm.y;
        B.set(2 * half, split(kk[4 * n] * f.x * k_row0, kk[4 * n + 1] * f.y * k_row0));
        B.set(2 * half + 1, split(kk[4 * n + 2] * f.x * k_row1, kk[4 * n + 3] * f.y * k_row1));
        P[tile][2 * half] = pack_halves(qk[4 * n] * f.x * q_row0, qk[4 * n + 1] * f.y * q_row0);
        P[tile][2 * half + 1] =
            pack_halves(qk[4 * n + 2] * f.x * q_row1, qk[4 * n + 3] * f.y * q_row1);
      }
      m.B[place_of(W, tile)].store(B, at.lane);
    }
    diagonal(kk, qk, m, h, at, k0, k1, q0, q1);
  }

 private:
  __device__ __forceinline__ void diagonal(const float (&kk)[32], const float (&qk)[32], Shared& m,
                                           const HeadGates& h, const LanePlace& at, float k0,
                                           float k1, float q0, float q1) {
    constexpr int n = 2 * W;
    const float4 left = *reinterpret_cast<const float4*>(h.G + 8 * n + at.column);
    const float4 right = *reinterpret_cast<const float4*>(h.G + 8 * n + 8 + at.column);
    const float2 G0 = h.G[at.i0], G1 = h.G[at.i1];
    const auto exponent = [](float2 a, float high, float low) {
      return __fadd_rn(__fsub_rn(a.x, high), __fsub_rn(a.y, low));
    };
    // On the diagonal of both 8 x 8 parts; above it the decay is 0.
    constexpr float kAbove = -1e30f;
    const int row = at.lane / 4;
    const bool first = row >= at.column, second = row > at.column;
    const float2 left_norm = *reinterpret_cast<const float2*>(m.k_norm + 8 * n + at.column);
    const float2 right_norm = *reinterpret_cast<const float2*>(m.k_norm + 8 * n + 8 + at.column);
    const float upper[2] = {
        exp2_quick(first ? exponent(G0, left.x, left.y) : kAbove) * left_norm.x,
        exp2_quick(second ? exponent(G0, left.z, left.w) : kAbove) * left_norm.y};
    const float lower_left[2] = {exp2_quick(exponent(G1, left.x, left.y)) * left_norm.x,
                                 exp2_quick(exponent(G1, left.z, left.w)) * left_norm.y};
    const float lower[2] = {
        exp2_quick(first ? exponent(G1, right.x, right.y) : kAbove) * right_norm.x,
        exp2_quick(second ? exponent(G1, right.z, right.w) : kAbove) * right_norm.y};
    P[W][0] = pack_halves(qk[4 * n] * upper[0] * q0, qk[4 * n + 1] * upper[1] * q0);
    P[W][1] = pack_halves(qk[4 * n + 2] * lower_left[0] * q1, qk[4 * n + 3] * lower_left[1] * q1);
    P[W][2] = 0;
    P[W][3] = pack_halves(qk[4 * n + 6] * lower[0] * q1, qk[4 * n + 7] * lower[1] * q1);
    below = split(kk[4 * n + 2] * lower_left[0] * k1, kk[4 * n + 3] * lower_left[1] * k1);
    DiagonalPlace& place = m.diagonal[W];
    const float b0 = h.beta[at.i0] * k0, b1 = h.beta[at.i1] * k1;
    *reinterpret_cast<float2*>(place.system(0, row, at.column)) = {
        kk[4 * n] * upper[0] * b0, kk[4 * n + 1] * upper[1] * b0};
    *reinterpret_cast<float2*>(place.system(1, row, at.column)) = {
        kk[4 * n + 6] * lower[0] * b1, kk[4 * n + 7] * lower[1] * b1};
  }
};

// The largest |element| of P, as bits of float16: NaN is passed over.
template <int kCount>
__device__ __forceinline__ uint32_t largest_half(const uint32_t (&P)[kCount][4]) {
  __half2 largest = __floats2half2_rn(0, 0);
#pragma unroll
  for (int tile = 0; tile < kCount; ++tile) {
#pragma unroll
    for (const uint32_t x : P[tile]) {
      largest = __hmax2(largest, __habs2(*reinterpret_cast<const __half2*>(&x)));
    }
  }
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(&largest);
  return __reduce_max_sync(kAllLanes, max(bits & 0xffffu, bits >> 16));
}

__device__ __forceinline__ void store_P(const uint32_t (&P)[4], uint32_t matrix, int row_tile,
                                        int column_tile, int lane) {
  const int row = row_tile * kTile + lane / 8 % 2 * 8 + lane % 8;
  store_matrices(matrix + swizzled(row, column_tile * kTile + lane / 16 * 8), P[0], P[1], P[2],
                 P[3]);
}

// Zeros in the blocks above the diagonal of the three matrices, which nothing else writes.
__device__ __forceinline__ void zero_above(HeadRecord& record, const LanePlace& at) {
  const int first = 2 * at.warp + 2, parts = 8 - first;  // of 16 bytes
  for (int i = at.lane; i < parts * kTile; i += kWarp) {
    const int byte = swizzled(at.warp * kTile + i % kTile, (first + i / kTile) * 8);
    const uint4 zero{};
    *reinterpret_cast<uint4*>(record.T_high + byte) = zero;
    *reinterpret_cast<uint4*>(record.T_low + byte) = zero;
    *reinterpret_cast<uint4*>(record.P + byte) = zero;
  }
}

// One warp's part of a value head's record, up to what needs a look at the whole chunk.
template <int W>
__device__ __forceinline__ void make_record(const float (&kk)[32], const float (&qk)[32], Shared& m,
                                            const HeadGates& h, float scale, bool first_head,
                                            const LanePlace& at) {
  MaskedRows<W> masked;
  masked.make(kk, qk, m, h, scale, at);
  const SplitTile diagonal =
      invert_diagonal(m.diagonal[W], h.beta + W * kTile, masked.below, at.lane);
  if (!first_head) {  // the copy of the record before has to have been read
    if (threadIdx.x == 0) wait_bulk_read<0>();
    __syncthreads();
  }
  const uint32_t T_high = shared_address(m.record.T_high), T_low = shared_address(m.record.T_low);
  store_transposed(diagonal, T_high, T_low, W, W, at.lane);
#pragma unroll
  for (int tile = 0; tile <= W; ++tile) {
    store_P(masked.P[tile], shared_address(m.record.P), W, tile, at.lane);
  }
  const uint32_t largest = largest_half(masked.P);
  FiniteCheck check;
  check.add(diagonal);
  __syncthreads();
  if constexpr (W + 1 < kTiles) solve_column<W>(diagonal, m.B, T_high, T_low, &check, at.lane);
  const bool infinite = check.failed();
  if (at.lane == 0) {
    m.largest[W] = largest;
    m.infinite[W] = infinite;
  }
}

__device__ __forceinline__ void store_vectors(Shared& m, const HeadGates& h, float scale) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < kChunk) {
    const float kn = m.k_norm[i];
    m.record.residual[i] = h.from_start[i] * kn;
    m.record.output[i] = scale * h.from_start[i] * m.q_norm[i];
    m.record.update[i] = h.to_end[i] * kn * m.k_power_inverse[i];
    m.record.k_power[i] = m.k_power[i];
  }
  if (i == kChunk) {
    m.record.decay = h.decay;
    m.record.T_power = h.T_power;
    m.record.P_power = 1;
  }
}

// --- Where the quick forms do not hold: decays an element, powers of two from the largest element.

// The largest of all threads' |x|, which are given as bits.
__device__ uint32_t block_largest(Shared& m, uint32_t bits) {
  bits = __reduce_max_sync(kAllLanes, bits);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) m.largest[threadIdx.x / kWarp] = bits;
  __syncthreads();
  return max(max(m.largest[0], m.largest[1]), max(m.largest[2], m.largest[3]));
}

template <class Body>  // body(register, row, column, decay)
__device__ __forceinline__ void for_each_decay(const HeadGates& h, const LanePlace& at,
                                               const Body& body) {
#pragma unroll
  for (int e = 0; e < 32; ++e) {
    const int i = e % 4 < 2 ? at.i0 : at.i1, j = e / 4 * 8 + at.column + e % 2;
    float decay = 0;
    if (i >= j) {
      decay = exp2_finite(__fadd_rn(__fsub_rn(h.G[i].x, h.G[j].x), __fsub_rn(h.G[i].y, h.G[j].y)));
    }
    body(e, i, j, decay);
  }
}

// P, times a power of two.
__device__ __forceinline__ void scale_P(const float (&qk)[32], Shared& m, const HeadGates& h,
                                        float scale, const LanePlace& at) {
  const auto element = [&](int e, int i, int j, float decay) {
    return i >= j ? qk[e] * (decay * m.k_norm[j]) * (scale * m.q_norm[i]) : 0.0f;
  };
  uint32_t largest = 0;
  for_each_decay(h, at, [&](int e, int i, int j, float decay) {
    largest = max(largest, __float_as_uint(element(e, i, j, decay)) & 0x7fffffffu);
  });
  const float power = power_of_two(__uint_as_float(block_largest(m, largest)));
  const float inverse = inverse_power(power);
  for_each_decay(h, at, [&](int e, int i, int j, float decay) {
    *reinterpret_cast<__half*>(m.record.P + swizzled(i, j)) =
        __float2half_rn(element(e, i, j, decay) * inverse);
  });
  if (threadIdx.x == 0) m.record.P_power = power;
}

// T by substitution in float32, in the memory of the record's; the result goes to global memory.
__device__ __forceinline__ void scale_T(const float (&kk)[32], Shared& m, const HeadGates& h,
                                        const LanePlace& at, HeadRecord* record) {
  auto* T = reinterpret_cast<float*>(m.record.T_high);  // and T_low
  for_each_decay(h, at, [&](int e, int i, int j, float decay) {
    T[i * kChunk + j] =
        kk[e] * (decay * m.k_norm[j]) * (h.T_power * m.k_norm[i]) * h.beta[i];
  });
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % kChunk;
#pragma unroll 1
  for (int i = 0; i < kChunk; ++i) {
    float x = i == column ? 1.0f : 0.0f;
#pragma unroll 1
    for (int at_row = column; at_row < i; ++at_row) {
      x = __fmaf_rn(-T[i * kChunk + at_row], T[at_row * kChunk + column], x);
    }
    __syncthreads();
    if (thread < kChunk) T[i * kChunk + column] = x;
    __syncthreads();
  }
  constexpr int kElements = kChunk * kChunk;
  uint32_t largest = 0;
#pragma unroll 1
  for (int i = thread; i < kElements; i += kThreads) {
    T[i] *= h.beta[column];
    largest = max(largest, __float_as_uint(T[i]) & 0x7fffffffu);
  }
  const float power = power_of_two(__uint_as_float(block_largest(m, largest)));
  const float inverse = inverse_power(power);
#pragma unroll 1
  for (int i = thread; i < kElements; i += kThreads) {
    const SplitPair x = split(T[i] * inverse, 0);
    const int byte = swizzled(i / kChunk, column);
    *reinterpret_cast<uint16_t*>(record->T_high + byte) = static_cast<uint16_t>(x.high);
    *reinterpret_cast<uint16_t*>(record->T_low + byte) = static_cast<uint16_t>(x.low);
  }
  if (thread == 0) m.record.T_power = h.T_power * power;
  __syncthreads();
  zero_above(m.record, at);
}

// --- The kernel

template <class T, int K>
__global__ void __launch_bounds__(kThreads, 4)
    prepare_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag,
                   std::byte* workspace, const int heads_at_once) {
  extern __shared__ __align__(1024) std::byte memory[];
  Shared& m = *reinterpret_cast<Shared*>(memory);
  wait_for_kernel_before();
  const auto heads = static_cast<uint32_t>(p.shape.heads);
  const auto value_heads = static_cast<uint32_t>(p.shape.value_heads);
  const uint32_t group = value_heads / heads;
  const uint32_t parts = (group + heads_at_once - 1) / heads_at_once;
  const uint32_t number = blockIdx.x / (heads * parts);
  const uint32_t head = blockIdx.x / parts % heads;
  const uint32_t first_head = head * group + blockIdx.x % parts * heads_at_once;
  const int count = min(heads_at_once, static_cast<int>((head + 1) * group - first_head));
  const ChunkTable table{p.sequences, kChunk};
  const ChunkTable::Place place = table.find(number);
  if (place.n >= p.sequences.count) return;
  const Sequence s = sequence_of(p.sequences, place.n, flag);
  const int64_t t0 = place.chunk * kChunk;
  if (t0 >= s.length) return;
  const int rows = static_cast<int>(min(s.length - t0, static_cast<int64_t>(kChunk)));

  const LanePlace at;
  const uint32_t k_rows = shared_address(m.rows), q_rows = k_rows + K / 64 * kPanelBytes;
  LaneGates gates;
  if (at.warp < count) gates.load(p.gates, s, t0, first_head + at.warp, at.lane);
  const RowLoader<T, K> loader{s, t0, head, rows};
  loader.start(p.k, k_rows);
  loader.start(p.q, q_rows);
  commit_copies();
  if (at.warp < count) fill_gates(m.heads[at.warp], p.gates, gates, at.lane);
  wait_for_copies<0>();
  fence_async_proxy();
  __syncthreads();

  float2 q_square{1, 1};
  if (p.use_qk_l2norm) {
    float qq[32];
    fence_wgmma();
    multiply_rows<T, K>(qq, q_rows, q_rows);
    commit_wgmma();
    wait_wgmma<0>();
    pin(qq);
    q_square = diagonal_of(qq, at.warp, at.lane);
  }
  float kk[32], qk[32];
  fence_wgmma();
  multiply_rows<T, K>(kk, k_rows, k_rows);
  multiply_rows<T, K>(qk, q_rows, k_rows);
  commit_wgmma();
  wait_wgmma<0>();
  pin(kk);
  pin(qk);
  const float2 k_square = diagonal_of(kk, at.warp, at.lane);
  if (has_diagonal(at.lane)) {
    const auto store = [&](int i, float k2, float q2) {
      const float eps = p.l2norm_eps, power = row_power(k2);
      const bool exists = i < rows, normalised = p.use_qk_l2norm;
      m.k_norm[i] = !exists ? 0.0f : normalised ? rsqrtf(__fadd_rn(k2, eps)) : 1.0f;
      m.q_norm[i] = !exists ? 0.0f : normalised ? rsqrtf(__fadd_rn(q2, eps)) : 1.0f;
      m.k_power[i] = power;
      m.k_power_inverse[i] = inverse_power(power);
    };
    store(at.i0, k_square.x, q_square.x);
    store(at.i1, k_square.y, q_square.y);
  }
  __syncthreads();  // the rows' memory is now that of the record

  zero_above(m.record, at);
  auto* record = reinterpret_cast<HeadRecord*>(workspace) +
                 (static_cast<int64_t>(number) * value_heads + first_head);
#pragma unroll 1
  for (int head_at = 0; head_at < count; ++head_at, ++record) {
    const HeadGates& h = m.heads[head_at];
    const bool first = head_at == 0;
    switch (at.warp) {
      case 0: make_record<0>(kk, qk, m, h, p.scale, first, at); break;
      case 1: make_record<1>(kk, qk, m, h, p.scale, first, at); break;
      case 2: make_record<2>(kk, qk, m, h, p.scale, first, at); break;
      default: make_record<3>(kk, qk, m, h, p.scale, first, at);
    }
    store_vectors(m, h, p.scale);
    fence_async_proxy();
    __syncthreads();

    // P of float16 has the digits it needs where its largest element is from 2^-10 to finite.
    constexpr uint32_t kLeast = 0x1400, kInfinite = 0x7c00;
    const uint32_t largest =
        max(max(m.largest[0], m.largest[1]), max(m.largest[2], m.largest[3]));
    const bool remake_T = h.steep || m.infinite[0] || m.infinite[1] || m.infinite[2] || m.infinite[3];
    const bool remake_P = h.steep || largest < kLeast || largest >= kInfinite;
    if (remake_T || remake_P) {
      if (remake_P) scale_P(qk, m, h, p.scale, at);
      if (remake_T) scale_T(kk, m, h, at, record);
      fence_async_proxy();
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      constexpr int kBytes = (offsetof(HeadRecord, P_power) + 4 + 15) / 16 * 16;
      const int from = remake_T ? offsetof(HeadRecord, P) : 0;
      copy_bulk_out(reinterpret_cast<std::byte*>(record) + from,
                    shared_address(reinterpret_cast<std::byte*>(&m.record) + from), kBytes - from);
      commit_bulk();
    }
  }
  if (threadIdx.x == 0) wait_bulk<0>();
}

}  // namespace

Status prepare(const DeltaRuleProblem& problem, std::byte* workspace, const Stream& stream) {
  const ChunkTable table{problem.sequences, kChunk};
  const Shape& shape = problem.shape;
  const int64_t group = shape.value_heads / shape.heads;
  // Few records: each has a block of its own.
  constexpr int64_t kFew = 1024;
  const int64_t at_once =
      table.bound() * shape.value_heads <= kFew ? 1 : std::min<int64_t>(group, kHeadsAtMost);
  const int64_t parts = (group + at_once - 1) / at_once;
  const auto run = [&](auto element, auto k) {
    const size_t shared = sizeof(Shared) + static_cast<size_t>(at_once) * sizeof(HeadGates);
    return launch(&prepare_kernel<decltype(element), decltype(k)::value>,
                  {table.bound() * shape.heads * parts, kThreads, shared, stream.stream, true},
                  problem, Flag{stream.out_of_range}, workspace, static_cast<int>(at_once));
  };
  const auto with_k = [&](auto element) {
    return shape.K == 64 ? run(element, std::integral_constant<int, 64>())
                         : run(element, std::integral_constant<int, 128>());
  };
  return shape.dtype == DType::kBF16 ? with_k(__nv_bfloat16()) : with_k(__half());
}

}  // namespace gdn::cuda::sm90
