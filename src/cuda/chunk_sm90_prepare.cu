// The first kernel of the chunk operator on Hopper: the records (chunk_sm90_record.h) of all
// chunks. Four warps have a chunk and up to four value heads of a q/k head, an item: k and q to
// shared memory, their Gram matrices by wgmma, and for each value head the decays, the masked
// matrices and the exact inverse (chunk_sm90_inverse.cuh). docs/kernels/chunk-sm90.md describes it.
#include <cfloat>

#include "cuda/chunk_beside.h"
#include "cuda/chunk_sm90_inverse.cuh"
#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/chunk_table.cuh"
#include "cuda/dependent.cuh"
#include "cuda/divisor.cuh"
#include "cuda/gates.cuh"
#include "cuda/hopper.cuh"
#include "cuda/launch.h"
#include "cuda/mma.cuh"
#include "cuda/wgmma.cuh"

namespace gdn::cuda::sm90 {
namespace {

// A team of four warps works out an item; a block has one team, or as many as fit a multiprocessor
// (chunk_beside.h).
constexpr int kThreads = kTiles * kWarp;
__device__ __forceinline__ int team_thread() { return static_cast<int>(threadIdx.x) % kThreads; }
__device__ __forceinline__ void sync_team() {
  sync_threads<kThreads>(1 + static_cast<int>(threadIdx.x) / kThreads);
}
static_assert(kMostHeadsAtOnce <= kTiles);
constexpr int kPanelBytes = kChunk * 128;  // 64 columns of k or q, as wgmma wants them

// Of a value head, from its gates alone. Exponents are those of 2. Between two blocks of 16 rows
// D_ij is the product of two factors that meet at the first row of i's block: a factor a row and a
// factor a column in place of an exponential an element.
struct alignas(16) HeadGates {
  float2 G[kChunk];  // a sum of two floats, for differences of any two
  // Of block w's rows, from 8 w (w + 1): exp(G_first - G_j) of the columns j before them, then
  // exp(G_i - G_first) of the rows. The warp of these rows writes and reads them.
  float factors[(kPlaces + kTiles) * kTile];
  float beta[kChunk];  // over T_power
  float sum, T_power;  // of g; power of two
  // Sums of g rise so far that the products of two factors may not hold: then the exponent of the
  // largest D_ij, rounded up, else 0.
  float rise;

  __device__ __forceinline__ const float* factors_of(int w) const {
    return factors + 8 * w * (w + 1);
  }
};

// A value head's T and B.
struct SystemPlace {
  std::byte T_high[HeadRecord::kMatrixBytes], T_low[HeadRecord::kMatrixBytes];
  TilePlace B[kPlaces];
};
// Matrices lie where the rows of k and q were: P of three heads, so that one leaves while the next
// is made, then the systems of two.
constexpr int kPlacesOfP = 3, kPair = 2;
struct Shared {
  union {
    std::byte rows[4 * kPanelBytes];  // k, then q
    struct {
      std::byte k_rows[2 * kPanelBytes];  // of K = 128; still to be read when P is made
      std::byte P[kPlacesOfP][HeadRecord::kMatrixBytes];
    };
    SystemPlace systems[kPair];
    float large_T[kChunk * kChunk];
  };
  DiagonalPlace diagonal[kTiles];
  float k_norm[kChunk], q_norm[kChunk];  // kn and qn of the record; 0 past the end
  float k_power_inverse[kChunk];
  uint32_t to_halves[kChunk];                     // ToHalves of k's rows
  uint32_t k_largest[kTiles], q_largest[kTiles];  // bits of |k_i|^2 and |q_i|^2, of the warps
  uint32_t largest[kTiles];                       // bits of |T_ij|
  // Whether T is, in the columns of blocks.
  alignas(4) bool infinite[kPair][kTiles];
  HeadGates heads[];
};
static_assert(offsetof(Shared, P) + sizeof(Shared::P) <= sizeof(Shared::rows));
static_assert(sizeof(Shared::systems) <= sizeof(Shared::rows));
static_assert(offsetof(Shared, heads) % 16 == 0);

// At most the largest float, so that a product with zero is zero; NaN passes.
__device__ __forceinline__ float exp2_finite(float x) {
  const float e = exp2_quick(x);
  return e > FLT_MAX ? FLT_MAX : e;
}

// --- Items

// Numbered by chunk, q/k head, and part of its value heads.
struct Items {
  int heads_at_once, group;  // value heads of an item at most, of a q/k head
  uint32_t count;
  Divisor parts, heads, chunks_per_row;
};

// Parameters lie in constant memory, of which no line is in a cache when a kernel begins, and code
// waits for one after another as it comes to them: this asks for all lines of one at once. The
// result means nothing, but goes to use() when there is time: what nothing depends on is left out,
// be it volatile or not.
template <class Parameters>
__device__ __forceinline__ uint32_t touch(const Parameters& parameters) {
  constexpr int kWords = static_cast<int>(sizeof(Parameters) / 4), kLine = 16;
  const auto* words = reinterpret_cast<const uint32_t*>(&parameters);
  uint32_t all = 0;
#pragma unroll
  for (int i = 0; i < kWords; i += kLine) all |= words[i];
  return all | words[kWords - 1];  // a line may begin anywhere
}
__device__ __forceinline__ void use(uint32_t touched) {
  if (touched == 0x5eadbeef) asm volatile("nanosleep.u32 0;");
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

// --- Gates. A warp has g of a value head and the same or another one beta, a lane tokens 2 lane
// and 2 lane + 1.

// Requested; nothing waits for them before they are looked at.
struct LaneGates {
  GateBits bits[2] = {};
  int count;  // of the two that exist

  // rows: of the chunk that exist.
  __device__ __forceinline__ LaneGates(int rows, int lane) : count(rows - 2 * lane) {}
  __device__ __forceinline__ bool valid(int e) const { return e < count; }
  __device__ __forceinline__ GateBits at(int e) const {
    const GateBits &a = bits[0], &b = bits[1];
    return {e == 0 ? a.decay : b.decay, a.A_log, a.dt_bias, e == 0 ? a.strength : b.strength};
  }
  __device__ __forceinline__ void load_decay(const GateInputs& gates, const Sequence& s, int64_t t0,
                                             int64_t head, int lane) {
    const TokenTensor& input = decay_input(gates);
    const std::byte* at = input.at(s, t0 + 2 * lane, head);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (valid(e)) bits[e] = load_decay_bits(gates, at, head);
      at += input.token_stride * size_of(input.dtype);
    }
  }
  __device__ __forceinline__ void load_strength(const GateInputs& gates, const Sequence& s,
                                                int64_t t0, int64_t head, int lane) {
    const TokenTensor& input = strength_input(gates);
    const std::byte* at = input.at(s, t0 + 2 * lane, head);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (valid(e)) bits[e].strength = load_strength_bits(gates, at);
      at += input.token_stride * size_of(input.dtype);
    }
  }
};

// HeadGates::rise.
__device__ __forceinline__ float steep_rise(const float (&g)[2], const double (&G)[2], int lane) {
  constexpr float kSteep = 4;       // exp(4) times anything usual is float16
  constexpr double kHighest = 126;  // a power of two
  float sum = fmaxf(g[0], 0.0f) + fmaxf(g[1], 0.0f);
#pragma unroll
  for (int bit = 1; bit < kWarp; bit *= 2) sum += __shfl_xor_sync(kAllLanes, sum, bit);
  if (sum < kSteep) return 0;
  double least = fmin(G[0], G[1]);  // of all up to here
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double before = __shfl_up_sync(kAllLanes, least, distance);
    if (lane >= distance) least = fmin(least, before);
  }
  auto rise = static_cast<float>(ceil(fmin(fmax(G[0], G[1]) - least, kHighest)));
#pragma unroll
  for (int bit = 1; bit < kWarp; bit *= 2) {
    rise = fmaxf(rise, __shfl_xor_sync(kAllLanes, rise, bit));
  }
  return fmaxf(rise, 1.0f);
}

// Sums of g.
__device__ __forceinline__ void fill_decays(HeadGates& h, const GateInputs& gates,
                                            const LaneGates& loaded, int lane) {
  constexpr double kLog2E = 1.4426950408889634;
  float g[2];
#pragma unroll 1
  for (int e = 0; e < 2; ++e) {
    float x = loaded.valid(e) ? g_of(gates, loaded.at(e)) : 0.0f;
    if (x < kLeastDecay) x = kLeastDecay;
    (e == 0 ? g[0] : g[1]) = x;
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

  float rise = 0;
  if (__builtin_expect(__any_sync(kAllLanes, g[0] > 0 || g[1] > 0), 0))
    rise = steep_rise(g, G, lane);

  float high[2], low[2];
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    high[e] = static_cast<float>(G[e]);
    low[e] = static_cast<float>(G[e] - static_cast<double>(high[e]));
  }
  reinterpret_cast<float4*>(h.G)[lane] = {high[0], low[0], high[1], low[1]};

  if (lane == 0) {
    h.sum = static_cast<float>(total);
    h.rise = rise;
  }
}

// beta, scaled up where all are faint; NaN and infinity count as large.
__device__ __forceinline__ void fill_strengths(HeadGates& h, const GateInputs& gates,
                                               const LaneGates& loaded, int lane) {
  constexpr float kFaint = 1.0f / 1024;  // a beta below loses digits in float16
  float beta[2];
#pragma unroll 1
  for (int e = 0; e < 2; ++e) {
    (e == 0 ? beta[0] : beta[1]) = loaded.valid(e) ? beta_of(gates, loaded.at(e).strength) : 0.0f;
  }
  const uint32_t largest = __reduce_max_sync(
      kAllLanes,
      max(__float_as_uint(beta[0]) & 0x7fffffffu, __float_as_uint(beta[1]) & 0x7fffffffu));
  const float power =
      largest < __float_as_uint(kFaint) ? power_of_two(__uint_as_float(largest)) : 1.0f;
  const float inverse = inverse_power(power);
  reinterpret_cast<float2*>(h.beta)[lane] = {beta[0] * inverse, beta[1] * inverse};
  if (lane == 0) h.T_power = power;
}

// exp(G_i - G_j) from sums of two floats.
__device__ __forceinline__ float decay_exponent(float2 Gi, float Gj_high, float Gj_low) {
  return __fadd_rn(__fsub_rn(Gi.x, Gj_high), __fsub_rn(Gi.y, Gj_low));
}

// HeadGates::factors of the rows of warp w, by that warp.
__device__ __forceinline__ void fill_factors(HeadGates& h, int w, int lane) {
  const float2 first = h.G[w * kTile];
#pragma unroll
  for (int part = 0; part < kChunk / kWarp; ++part) {
    const int j = part * kWarp + lane;
    if (j >= (w + 1) * kTile) break;
    const float2 G = h.G[j];
    const float d = decay_exponent(first, G.x, G.y);
    h.factors[8 * w * (w + 1) + j] = exp2_finite(j < w * kTile ? d : -d);
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

// The code for the four warps is one, lest they compete for the instruction cache: the block on the
// diagonal, which lies elsewhere in each, is put last, where nothing but the last warp's lies below
// or on the diagonal.
constexpr int kDiagonal = 3 * kTile / 2;  // its first register
__device__ __forceinline__ void put_diagonal_last(float (&x)[32], int warp) {
#pragma unroll
  for (int w = 0; w + 1 < kTiles; ++w) {
#pragma unroll
    for (int e = 0; e < kTile / 2; ++e) {
      if (w == warp) x[kDiagonal + e] = x[w * kTile / 2 + e];
    }
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

// --- The masked matrices

// Rows 16 warp + lane / 4 and 8 further; columns 2 (lane % 4) and the next of every eight.
struct LanePlace {
  int warp, lane, i0, i1, column;
  __device__ __forceinline__ LanePlace()
      : warp(__shfl_sync(kAllLanes, team_thread() / kWarp, 0)),
        lane(static_cast<int>(threadIdx.x) % kWarp),
        i0(warp * kTile + lane / 4),
        i1(i0 + 8),
        column(lane % 4 * 2) {}
  // The same, not known to be: else the compiler keeps the addresses of all places through loops.
  __device__ __forceinline__ LanePlace again() const {
    LanePlace at = *this;
    asm volatile("" : "+r"(at.lane));
    at.i0 = at.warp * kTile + at.lane / 4;
    at.i1 = at.i0 + 8;
    at.column = at.lane % 4 * 2;
    return at;
  }
};

// D_ij kn_j of the lane's elements in the block on the diagonal: of its upper left, lower left and
// lower right 8 x 8 parts.
struct DiagonalDecay {
  float upper[2], corner[2], lower[2];

  __device__ __forceinline__ DiagonalDecay(const Shared& m, const HeadGates& h,
                                           const LanePlace& at) {
    const int j = at.warp * kTile + at.column;
    const float4 left = *reinterpret_cast<const float4*>(h.G + j);
    const float4 right = *reinterpret_cast<const float4*>(h.G + j + 8);
    const float2 left_norm = *reinterpret_cast<const float2*>(m.k_norm + j);
    const float2 right_norm = *reinterpret_cast<const float2*>(m.k_norm + j + 8);
    const float2 G0 = h.G[at.i0], G1 = h.G[at.i1];
    constexpr float kAbove = -1e30f;
    const bool first = at.lane / 4 >= at.column, second = at.lane / 4 > at.column;
    upper[0] = exp2_quick(first ? decay_exponent(G0, left.x, left.y) : kAbove) * left_norm.x;
    upper[1] = exp2_quick(second ? decay_exponent(G0, left.z, left.w) : kAbove) * left_norm.y;
    corner[0] = exp2_quick(decay_exponent(G1, left.x, left.y)) * left_norm.x;
    corner[1] = exp2_quick(decay_exponent(G1, left.z, left.w)) * left_norm.y;
    lower[0] = exp2_quick(first ? decay_exponent(G1, right.x, right.y) : kAbove) * right_norm.x;
    lower[1] = exp2_quick(second ? decay_exponent(G1, right.z, right.w) : kAbove) * right_norm.y;
  }
};

// D_ij kn_j of columns 8 n + ... left of the diagonal, but for the row's factor.
__device__ __forceinline__ float2 column_factor(const Shared& m, const HeadGates& h, int n,
                                                const LanePlace& at) {
  const int j = 8 * n + at.column;
  const float2 norm = *reinterpret_cast<const float2*>(m.k_norm + j);
  const float2 f = *reinterpret_cast<const float2*>(h.factors_of(at.warp) + j);
  return {f.x * norm.x, f.y * norm.y};
}

__device__ __forceinline__ void store_P(const uint32_t (&P)[4], uint32_t matrix, int row_tile,
                                        int column_tile, int lane) {
  store_matrices(matrix + HeadRecord::tile_offset(row_tile, column_tile) +
                     HeadRecord::in_tile(lane / 8 % 2 * 8 + lane % 8, lane / 16 * 8),
                 P[0], P[1], P[2], P[3]);
}

// The warp's rows of P, up to the diagonal. scale: over P_power.
__device__ __forceinline__ void make_P(const float (&qk)[32], const Shared& m, const HeadGates& h,
                                       float scale, uint32_t matrix, const LanePlace& at) {
  const float q0 = scale * m.q_norm[at.i0], q1 = scale * m.q_norm[at.i1];
  const float row0 = q0 * h.factors_of(at.warp)[at.i0], row1 = q1 * h.factors_of(at.warp)[at.i1];
#pragma unroll
  for (int tile = 0; tile + 1 < kTiles; ++tile) {
    if (tile >= at.warp) break;
    uint32_t P[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int n = 2 * tile + half;
      const float2 f = column_factor(m, h, n, at);
      P[2 * half] = pack_halves(qk[4 * n] * f.x * row0, qk[4 * n + 1] * f.y * row0);
      P[2 * half + 1] = pack_halves(qk[4 * n + 2] * f.x * row1, qk[4 * n + 3] * f.y * row1);
    }
    store_P(P, matrix, at.warp, tile, at.lane);
  }
  const DiagonalDecay d(m, h, at);
  const float* x = qk + kDiagonal;
  const uint32_t P[4] = {pack_halves(x[0] * d.upper[0] * q0, x[1] * d.upper[1] * q0),
                         pack_halves(x[2] * d.corner[0] * q1, x[3] * d.corner[1] * q1), 0,
                         pack_halves(x[6] * d.lower[0] * q1, x[7] * d.lower[1] * q1)};
  store_P(P, matrix, at.warp, at.warp, at.lane);
}

// The warp's rows of B and diag(beta) B: blocks left of the diagonal to `blocks`, the 8 x 8 parts
// on it to m.diagonal, the one between these to the result.
__device__ __forceinline__ SplitPair make_system(const float (&kk)[32], Shared& m,
                                                 const HeadGates& h, TilePlace* blocks,
                                                 const LanePlace& at) {
  const float k0 = h.T_power * m.k_norm[at.i0], k1 = h.T_power * m.k_norm[at.i1];
  const float row0 = k0 * h.factors_of(at.warp)[at.i0], row1 = k1 * h.factors_of(at.warp)[at.i1];
#pragma unroll
  for (int tile = 0; tile + 1 < kTiles; ++tile) {
    if (tile >= at.warp) break;
    SplitTile B;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int n = 2 * tile + half;
      const float2 f = column_factor(m, h, n, at);
      B.set(2 * half, split(kk[4 * n] * f.x * row0, kk[4 * n + 1] * f.y * row0));
      B.set(2 * half + 1, split(kk[4 * n + 2] * f.x * row1, kk[4 * n + 3] * f.y * row1));
    }
    blocks[place_of(at.warp, tile)].store(B, at.lane);
  }
  const DiagonalDecay d(m, h, at);
  const float* x = kk + kDiagonal;
  const float b0 = h.beta[at.i0] * k0, b1 = h.beta[at.i1] * k1;
  DiagonalPlace& place = m.diagonal[at.warp];
  *reinterpret_cast<float2*>(place.system(0, at.lane / 4, at.column)) = {x[0] * d.upper[0] * b0,
                                                                         x[1] * d.upper[1] * b0};
  *reinterpret_cast<float2*>(place.system(1, at.lane / 4, at.column)) = {x[6] * d.lower[0] * b1,
                                                                         x[7] * d.lower[1] * b1};
  return split(x[2] * d.corner[0] * k1, x[3] * d.corner[1] * k1);
}

// The warp's rows of the systems of some value heads, and their diagonal blocks of T.
__device__ __forceinline__ void make_systems(const float (&kk)[32], Shared& m,
                                             const HeadGates* heads, int count,
                                             const LanePlace& here) {
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const LanePlace at = here.again();
    SystemPlace& place = m.systems[i];
    const SplitPair below = make_system(kk, m, heads[i], place.B, at);
    const SplitTile diagonal =
        invert_diagonal(m.diagonal[at.warp], heads[i].beta + at.warp * kTile, below, at.lane);
    store_transposed(diagonal, shared_address(place.T_high), shared_address(place.T_low), at.warp,
                     at.warp, at.lane);
  }
}

// The blocks of T below the diagonal of some value heads. A warp has a column of each, a long one
// of one head and a short one of the next.
__device__ __forceinline__ void solve_systems(Shared& m, int count, int warp, int lane) {
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const int column = i % 2 == 0 ? warp : kTiles - 1 - warp;
    const SystemPlace& place = m.systems[i];
    const uint32_t T_high = shared_address(place.T_high), T_low = shared_address(place.T_low);
    const SplitTile diagonal = load_transposed(T_high, T_low, column, column, lane);
    FiniteCheck check;
    check.add(diagonal);
    solve_column(column, diagonal, place.B, T_high, T_low, &check, lane);
    const bool infinite = check.failed();
    if (lane == 0) m.infinite[i][column] = infinite;
  }
}

// A thread a token: in the first two warps, whose rows of P are the shortest.
__device__ __forceinline__ void store_vectors(const Shared& m, const HeadGates& h, float scale,
                                              float P_power, RecordVectors* record) {
  const int i = team_thread();
  if (i >= kChunk) return;
  const uint32_t rise = static_cast<uint32_t>(h.rise) << 23;
  const float inverse = __uint_as_float(0x3f800000u - rise);
  const float2 G = h.G[i], end = h.G[kChunk - 1];
  const float kn = m.k_norm[i], qn = m.q_norm[i], k_power_inverse = m.k_power_inverse[i];
  const float from_start = exp2_finite(G.x);
  const float to_end = exp2_finite(decay_exponent(end, G.x, G.y));
  record->residual[i] = from_start * kn;
  record->output[i] = scale * from_start * qn;
  record->update[i] = to_end * inverse * kn * k_power_inverse;
  if (i == 0) {
    const float growth = __uint_as_float(0x3f800000u + rise);
    float decay = decay_of(h.sum);
    if (decay > FLT_MAX) decay = FLT_MAX;  // NaN passes
    record->decay = decay * inverse;
    record->P_power = P_power * growth;
    record->growth = growth;
  }
}

// --- Where the quick forms do not hold: an exponential an element, T in float32.

template <class Body>  // body(register, row, column, decay, at most 2^(128 - exponent))
__device__ __forceinline__ void for_each_decay(const HeadGates& h, const LanePlace& here,
                                               float exponent, const Body& body) {
  constexpr float kHighest = 127.99f;
  const LanePlace at = here.again();
  const float2 G0 = h.G[at.i0], G1 = h.G[at.i1];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const bool on_diagonal = tile + 1 == kTiles;
    if (!on_diagonal && tile >= at.warp) continue;
    const int first = (on_diagonal ? at.warp : tile) * kTile + at.column;
#pragma unroll
    for (int e = 0; e < kTile / 2; ++e) {
      const int i = e % 4 < 2 ? at.i0 : at.i1, j = first + e / 4 * 8 + e % 2;
      const float2 Gj = h.G[j];
      const float d = decay_exponent(e % 4 < 2 ? G0 : G1, Gj.x, Gj.y);
      body(tile * kTile / 2 + e, i, j,
           i >= j ? exp2_quick((d > kHighest ? kHighest : d) - exponent) : 0.0f);
    }
  }
}

// The byte of element (row, column) of a matrix of the record, in a tile that is there.
__device__ __forceinline__ int element_offset(int row, int column) {
  return HeadRecord::tile_offset(row / kTile, column / kTile) +
         HeadRecord::in_tile(row % kTile, column % kTile);
}

// The warp's rows of P, of which the decays are over 2^rise.
__device__ __forceinline__ void make_steep_P(const float (&qk)[32], const Shared& m,
                                             const HeadGates& h, float scale, std::byte* matrix,
                                             const LanePlace& at) {
  for_each_decay(h, at, h.rise, [&](int e, int i, int j, float decay) {
    *reinterpret_cast<__half*>(matrix + element_offset(i, j)) =
        __float2half_rn(qk[e] * (decay * m.k_norm[j]) * (scale * m.q_norm[i]));
  });
}

// The largest of all threads' |x|, which are given as bits.
__device__ __forceinline__ uint32_t block_largest(Shared& m, uint32_t bits) {
  bits = __reduce_max_sync(kAllLanes, bits);
  sync_team();
  if (threadIdx.x % kWarp == 0) m.largest[team_thread() / kWarp] = bits;
  sync_team();
  return max(max(m.largest[0], m.largest[1]), max(m.largest[2], m.largest[3]));
}

// T by substitution in float32; the result goes to the record, over a power of two that is
// returned.
__device__ __forceinline__ float make_large_T(const float (&kk)[32], Shared& m, const HeadGates& h,
                                              const LanePlace& at, HeadRecord* record) {
  float(&T)[kChunk * kChunk] = m.large_T;
  if (team_thread() == 0) wait_bulk_read<0>();  // T of the head before lies there
  sync_team();
  for_each_decay(h, at, 0, [&](int e, int i, int j, float decay) {
    T[i * kChunk + j] = kk[e] * (decay * m.k_norm[j]) * (h.T_power * m.k_norm[i]) * h.beta[i];
  });
  sync_team();
  const int thread = team_thread();
  const int column = thread % kChunk;
#pragma unroll 1
  for (int i = 0; i < kChunk; ++i) {
    float x = i == column ? h.beta[i] : 0.0f;
#pragma unroll 1
    for (int k = column; k < i; ++k) {
      x = __fmaf_rn(-T[i * kChunk + k], T[k * kChunk + column], x);
    }
    sync_team();
    if (thread < kChunk) T[i * kChunk + column] = x;
    sync_team();
  }
  constexpr int kElements = kChunk * kChunk;
  uint32_t largest = 0;
#pragma unroll 1
  for (int i = thread; i < kElements; i += kThreads) {
    largest = max(largest, __float_as_uint(T[i]) & 0x7fffffffu);
  }
  const float power = power_of_two(__uint_as_float(block_largest(m, largest)));
  const float inverse = inverse_power(power);
#pragma unroll 1
  for (int i = thread; i < kElements; i += kThreads) {
    const SplitPair x = split(T[i] * inverse, 0);
    const int row = i / kChunk;
    if (column / kTile > row / kTile) continue;
    const int byte = element_offset(row, column);
    *reinterpret_cast<uint16_t*>(record->T_high + byte) = static_cast<uint16_t>(x.high);
    *reinterpret_cast<uint16_t*>(record->T_low + byte) = static_cast<uint16_t>(x.low);
  }
  return power;
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
__device__ __forceinline__ void store_keys(const Shared& m, KeyRecord<K>* record) {
  constexpr int kPieces = kChunk * 8;  // of a panel
  constexpr int kAtOnce = kPieces / kThreads;
  const int thread = team_thread();
  ToHalves<T> to_halves[kAtOnce];
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    to_halves[i].by = m.to_halves[i * (kThreads / 8) + thread / 8];
  }
#pragma unroll 1
  for (int panel = 0; panel < K / 64; ++panel) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const ToHalves<T>& convert = to_halves[i];
      const int piece = panel * kPieces + i * kThreads + thread;
      const uint4 x = reinterpret_cast<const uint4*>(m.rows)[piece];
      reinterpret_cast<uint4*>(record->k)[piece] = {convert(x.x), convert(x.y), convert(x.z),
                                                    convert(x.w)};
    }
  }
}

// --- The kernel

// P_power: 1 if float16 has the digits P needs up to what |q_i| and |k_j| allow.
__device__ __forceinline__ float power_of_P(float scale, float k_square, float q_square) {
  constexpr float kLeast = 1.0f / 64, kMost = 32768;
  const float most = fabsf(scale) * sqrtf(k_square) * sqrtf(q_square);
  return most >= kLeast && most < kMost ? 1.0f : power_of_two(most);
}
__device__ __forceinline__ float largest_of(const uint32_t (&bits)[kTiles]) {
  return __uint_as_float(max(max(bits[0], bits[1]), max(bits[2], bits[3])));
}

// Norms and powers of the rows, from the diagonals of k k^T and q q^T.
template <class T>
__device__ __forceinline__ void store_norms(Shared& m, const DeltaRuleProblem& p, float2 k_square,
                                            float2 q_square, int rows, const LanePlace& at) {
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

template <class T, int K>
__device__ __forceinline__ void prepare_item(Shared& m, const DeltaRuleProblem& p, const Flag& flag,
                                             const Records& places, const Part& part,
                                             std::byte* workspace, const Items& items,
                                             uint32_t item) {
  const uint32_t head_of_chunk = items.parts.divide(item);
  const uint32_t chunk = items.heads.divide(head_of_chunk);
  const uint32_t head = head_of_chunk - chunk * items.heads.value;
  const int first_of_group =
      static_cast<int>(item - head_of_chunk * items.parts.value) * items.heads_at_once;
  const int64_t first_head = head * items.group + first_of_group;
  const int count = min(items.heads_at_once, items.group - first_of_group);
  const int64_t number = part.first + chunk;
  ChunkTable::Place place;
  if (p.sequences.cu_seqlens.given()) {
    place = ChunkTable{p.sequences, kChunk}.find(number);
  } else {  // numbers below 2^31, as blocks have
    place.n = items.chunks_per_row.divide(static_cast<uint32_t>(number));
    place.chunk = number - place.n * items.chunks_per_row.value;
  }
  if (place.n >= p.sequences.count) return;
  const Sequence s = sequence_of(p.sequences, place.n, flag);
  const int64_t t0 = place.chunk * kChunk;
  if (t0 >= s.length) return;
  const int rows = static_cast<int>(min(s.length - t0, static_cast<int64_t>(kChunk)));

  const LanePlace here;
  const uint32_t k_rows = shared_address(m.rows), q_rows = k_rows + K / 64 * kPanelBytes;
  // The heads, from first_head on, of which the warp has g and beta.
  const int decay_head = here.warp,
            strength_head = here.warp - (count <= kTiles / 2 ? kTiles / 2 : 0);
  const bool has_decay = decay_head < count;
  const bool has_strength = strength_head >= 0 && strength_head < count;
  LaneGates gates(rows, here.lane);
  if (has_decay) gates.load_decay(p.gates, s, t0, first_head + decay_head, here.lane);
  if (has_strength) gates.load_strength(p.gates, s, t0, first_head + strength_head, here.lane);
  const RowLoader<T, K> loader{s, t0, head, rows};
#pragma unroll 1
  for (int i = 0; i < 2; ++i) loader.start(i == 0 ? p.k : p.q, i == 0 ? k_rows : q_rows);
  commit_copies();
  if (has_decay) fill_decays(m.heads[decay_head], p.gates, gates, here.lane);
  if (has_strength) fill_strengths(m.heads[strength_head], p.gates, gates, here.lane);
  wait_for_copies<0>();
  fence_async_proxy();
  sync_team();

  float kk[32], qk[32];
  fence_wgmma();
  multiply_rows<T, K>(qk, q_rows, q_rows);  // for its diagonal alone
  multiply_rows<T, K>(kk, k_rows, k_rows);
  commit_wgmma();
#pragma unroll 1
  for (int i = 0; i < count; ++i) fill_factors(m.heads[i], here.warp, here.lane);
  wait_wgmma<0>();
  pin(qk);
  pin(kk);
  const float2 q_square = diagonal_of(qk, here.warp, here.lane);
  fence_wgmma();
  multiply_rows<T, K>(qk, q_rows, k_rows);
  commit_wgmma();
  store_norms<T>(m, p, diagonal_of(kk, here.warp, here.lane), q_square, rows, here);
  wait_wgmma<0>();
  pin(qk);
  put_diagonal_last(qk, here.warp);
  put_diagonal_last(kk, here.warp);
  sync_team();  // P may now lie where q was

  if (first_of_group == 0) {
    store_keys<T, K>(m, places.template keys<K>(workspace, part, number, head));
  }
  HeadRecord* records = places.head(workspace, part, number, first_head);
  const float P_power = p.use_qk_l2norm
                            ? power_of_P(p.scale, 1, 1)
                            : power_of_P(p.scale, largest_of(m.k_largest), largest_of(m.q_largest));
  const float P_scale = p.scale * inverse_power(P_power);
  // P of all heads, a warp its rows by itself.
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const LanePlace at = here.again();
    const HeadGates& h = m.heads[i];
    std::byte* matrix = m.P[i % kPlacesOfP];
    const uint32_t address = shared_address(matrix);
    if (i >= kPlacesOfP) {
      if (at.lane <= at.warp) wait_bulk_read<kPlacesOfP - 1>();
      __syncwarp();
    }
    if (h.rise > 0) {
      make_steep_P(qk, m, h, P_scale, matrix, at);
    } else {
      make_P(qk, m, h, P_scale, address, at);
    }
    fence_async_proxy();
    __syncwarp();
    if (at.lane <= at.warp) {  // a lane a tile
      const int tile = HeadRecord::tile_offset(at.warp, at.lane);
      copy_bulk_out(records[i].P + tile, address + tile, HeadRecord::kTileBytes);
      commit_bulk();
    }
    store_vectors(m, h, p.scale, P_power, &records[i].vectors);
  }

#pragma unroll 1
  for (int first = 0; first < count; first += kPair) {
    const int pair = min(kPair, count - first);
    const HeadGates* pair_heads = m.heads + first;
    // Systems may then lie where k was, and matrices that have left.
    if (here.lane <= here.warp) wait_bulk_read<0>();
    sync_team();
    make_systems(kk, m, pair_heads, pair, here);
    sync_team();
    solve_systems(m, pair, here.warp, here.lane);
    fence_async_proxy();
    sync_team();
#pragma unroll 1
    for (int i = 0; i < pair; ++i) {
      const HeadGates& h = pair_heads[i];
      HeadRecord* record = records + first + i;
      static_assert(sizeof(m.infinite[i]) == sizeof(uint32_t));
      const bool infinite = *reinterpret_cast<const uint32_t*>(m.infinite[i]) != 0;
      float power = h.T_power;
      if (h.rise > 0 || infinite) {
        power *= make_large_T(kk, m, h, here, record);
      } else if (team_thread() == 0) {
        copy_bulk_out(record->T_high, shared_address(m.systems[i].T_high),
                      2 * HeadRecord::kMatrixBytes);
        commit_bulk();
      }
      if (team_thread() == 0) record->vectors.T_power = power;
    }
  }
  if (here.lane == 0) wait_bulk_read<0>();  // shared memory is another's next
}

// Flags (chunk_sm90_beside.h) are lowered before the walk is let in, which is when every block runs
// and has come to that: so it finds none of an earlier call, and waits for nothing that has still
// to be scheduled. (That the walk sees them lowered rests on both being in the second-level cache,
// where its looks at flags go: letting a kernel in orders nothing by itself.)
//
// A team that is done with an item raises its flag once all of it is written, for copies by another
// multiprocessor too.
__device__ __forceinline__ void raise_flag(uint32_t* flag) {
  wait_bulk<0>();
  fence_async_proxy_of_all();
  sync_team();
  if (team_thread() == 0) raise(flag);
}

template <class T, int K, int kBlocksPerMultiprocessor>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    prepare_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag,
                   const Records places, const Part part, std::byte* workspace, const Items items,
                   const Beside beside) {
  extern __shared__ __align__(1024) std::byte memory[];
  Shared& m = *reinterpret_cast<Shared*>(memory);
  // From the last item on: of the chunks that the walk begins with, what was read and written is
  // then still in the second-level cache. With flags from the first on.
  const uint32_t item = beside.here() ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
  uint32_t* raised = beside.flags(workspace) + item;
  const uint32_t touched = touch(p);
  if (part.index == 0) wait_for_memory_of_kernel_before();
  if (threadIdx.x == 0) {
    if (beside.here()) {
      *raised = 0;
      __threadfence();
    }
    let_next_kernel_in();
  }
  use(touched);
  prepare_item<T, K>(m, p, flag, places, part, workspace, items, item);
  if (beside.here()) raise_flag(raised);
  // The end of this kernel is the end of all before it.
  if (part.index > 0 && blockIdx.x == gridDim.x - 1) wait_for_memory_of_kernel_before();
}

// Blocks that stay: each has a multiprocessor, and its teams take items in turn, from the first on.
template <class T, int K>
__global__ void __launch_bounds__(kTeams* kThreads, 1)
    prepare_beside_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag,
                          const Records places, const Part part, std::byte* workspace,
                          const Items items, const int team_bytes, const Beside beside) {
  extern __shared__ __align__(1024) std::byte memory[];
  const int team = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kThreads, 0);
  Shared& m = *reinterpret_cast<Shared*>(memory + team * team_bytes);
  uint32_t* flags = beside.flags(workspace);
  const uint32_t touched = touch(p);
  wait_for_memory_of_kernel_before();
  use(touched);
  for (uint32_t item = blockIdx.x + threadIdx.x * gridDim.x; item < items.count;
       item += kTeams * kThreads * gridDim.x) {
    flags[item] = 0;
  }
  __threadfence();
  __syncthreads();
  let_next_kernel_in();
#pragma unroll 1
  for (uint32_t item = blockIdx.x + static_cast<uint32_t>(team) * gridDim.x; item < items.count;
       item += kTeams * gridDim.x) {
    prepare_item<T, K>(m, p, flag, places, part, workspace, items, item);
    raise_flag(flags + item);
  }
}

template <int kBlocksPerMultiprocessor>
Status prepare_heads(const DeltaRuleProblem& problem, const Records& records, const Part& part,
                     std::byte* workspace, const Stream& stream, int64_t heads_at_once,
                     const Beside& beside) {
  const Shape& shape = problem.shape;
  const int64_t group = shape.value_heads / shape.heads;
  const int64_t parts = (group + heads_at_once - 1) / heads_at_once;
  const int64_t count = (part.end - part.first) * shape.heads * parts;
  const Items items{static_cast<int>(heads_at_once),
                    static_cast<int>(group),
                    static_cast<uint32_t>(count),
                    Divisor(parts),
                    Divisor(shape.heads),
                    Divisor(ChunkTable{problem.sequences, kChunk}.per_row())};
  const auto run = [&](auto element, auto k) {
    const size_t shared = sizeof(Shared) + static_cast<size_t>(heads_at_once) * sizeof(HeadGates);
    if (beside.blocks > 0) {
      const size_t of_team = (shared + 1023) / 1024 * 1024;
      return launch(&prepare_beside_kernel<decltype(element), decltype(k)::value>,
                    {std::min<int64_t>(beside.blocks, count), kTeams * kThreads, kTeams * of_team,
                     stream.stream, true},
                    problem, Flag{stream.out_of_range}, records, part, workspace, items,
                    static_cast<int>(of_team), beside);
    }
    return launch(&prepare_kernel<decltype(element), decltype(k)::value, kBlocksPerMultiprocessor>,
                  {count, kThreads, shared, stream.stream, true}, problem,
                  Flag{stream.out_of_range}, records, part, workspace, items, beside);
  };
  const auto with_k = [&](auto element) {
    return shape.K == 64 ? run(element, std::integral_constant<int, 64>())
                         : run(element, std::integral_constant<int, 128>());
  };
  return shape.dtype == DType::kBF16 ? with_k(__nv_bfloat16()) : with_k(__half());
}

}  // namespace

Status prepare(const DeltaRuleProblem& problem, const Device& device, const Records& places,
               const Beside& beside, const Part& part, std::byte* workspace, const Stream& stream) {
  constexpr int kBlocksPerMultiprocessor = kTeams;
  const Shape& shape = problem.shape;
  const int64_t records = (part.end - part.first) * shape.value_heads;
  return prepare_heads<kBlocksPerMultiprocessor>(
      problem, places, part, workspace, stream,
      beside.here()
          ? beside.heads_at_once
          : choose_heads_at_once(records, shape.value_heads / shape.heads,
                                 int64_t{kBlocksPerMultiprocessor} * device.multiprocessors),
      beside);
}

}  // namespace gdn::cuda::sm90
