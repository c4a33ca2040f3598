// The second kernel of the chunk operator on tensor cores: a block owns 64 V columns of a
// (sequence, value head), a warp 16 of them, whose state [16, K] stays in float32 accumulators, and
// walks the chunks by their records:
//
//   X     = V^T - a o (S K^T)             a, b, t, p, d: the record's vectors, by token
//   V_new = t o (X T^T)
//   O     = p o (b o (S Q^T) + V_new P^T)
//   S     = exp(G_C) S + (d o V_new) K
//
// V columns are the rows of every product, so that each left operand is an accumulator packed to
// float16, times a power of two a row that brings its largest element to [1, 2): nothing overflows,
// and nothing small is lost beside what is larger. Right operands come from shared memory, where
// copies run a chunk ahead.
#include "cuda/chunk_record.h"
#include "cuda/chunk_stages.h"
#include "cuda/chunk_table.cuh"
#include "cuda/element.cuh"
#include "cuda/launch.h"
#include "cuda/mma.cuh"
#include "cuda/resolve.cuh"

namespace gdn::cuda {
namespace {

constexpr int kC = kRecordChunk;
constexpr int kColumns = static_cast<int>(kTensorCoreColumns);
constexpr int kWarps = kColumns / 16;
constexpr int kThreads = kWarps * kWarp;
constexpr int kVectors = static_cast<int>(RecordVector::kCount);
static_assert(kVectors * kC / 4 <= kThreads);
constexpr int kMatrixStride = kC + 8;  // halves: 16-byte rows of eight lines without conflicts
constexpr int kValueStride = kColumns + 8;
// Of two row scales: what is smaller yet is lost in the sum, and a larger quotient could overflow.
constexpr float kLeastScale = 0x1p-40f;

// What a chunk needs in shared memory.
template <int K>
struct Stage {
  static constexpr int kRowStride = K + 8;
  __half k[kC * kRowStride], q[kC * kRowStride];
  __half T[kC * kMatrixStride], T_low[kC * kMatrixStride], P[kC * kMatrixStride];
  uint16_t v[kC * kValueStride];  // as stored
  float vectors[kVectors][kC];
};

// Tiles of 16 rows (V columns) and n * 8 columns, as accumulators.
template <int kTiles>
struct Tiles {
  float x[kTiles][4];

  __device__ void clear() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[tile][i] = 0;
    }
  }
  // Body(element, tile, i), of which i / 2 is the row and i % 2 the column of the lane's two.
  template <class Body>
  __device__ void for_each(const Body& body) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) body(x[tile][i], tile, i);
    }
  }
  // The power of two of the largest element of each of the lane's rows.
  __device__ void row_powers(float (&powers)[2]) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float largest = 0;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        largest = fmaxf(largest, fmaxf(fabsf(x[tile][2 * row]), fabsf(x[tile][2 * row + 1])));
      }
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
      powers[row] = power_of_two(largest);
    }
  }
  // Columns as what the next product is contracted over, rows divided by their powers.
  __device__ void pack(const float (&powers)[2], MatrixA (&a)[kTiles / 2]) const {
    const float low = inverse_power(powers[0]), high = inverse_power(powers[1]);
#pragma unroll
    for (int step = 0; step < kTiles / 2; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float(&c)[4] = x[2 * step + half];
        a[step].x[2 * half] = pack_halves(c[0] * low, c[1] * low);
        a[step].x[2 * half + 1] = pack_halves(c[2] * high, c[3] * high);
      }
    }
  }
};

using TokenTiles = Tiles<kC / 8>;
using TokenOperand = MatrixA[kC / 16];

// x += a B^T, B [kC tokens][steps * 16] in shared memory. With `lower`, B is lower triangular.
template <int kSteps, bool kLower>
__device__ void multiply_rows(TokenTiles& x, const MatrixA (&a)[kSteps], const __half* b,
                              int stride) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const uint32_t base = shared_address(b + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int pair = 0; pair < kC / 16; ++pair) {
      if (kLower && step > pair) continue;
      uint32_t m[4];
      load_matrices(base + static_cast<uint32_t>((pair * 16 * stride + step * 16) * 2), m);
      multiply_add(x.x[2 * pair], a[step], m[0], m[1]);
      multiply_add(x.x[2 * pair + 1], a[step], m[2], m[3]);
    }
  }
}

template <class T, int K>
struct Walker {
  using StateTiles = Tiles<K / 8>;

  const DeltaRuleProblem& p;
  int64_t head;
  int v0;  // the block's first column
  int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  StateTiles state;

  // Body(state element, element of the slot) for all of the lane's. The strides are opaque to the
  // compiler, which would else keep every offset in registers throughout the walk.
  template <class E, class Body>
  __device__ void for_each_element(E* slot, const Body& body) {
    const bool vk = p.shape.layout == StateLayout::kVK;
    int v_stride = vk ? K : 1, k_stride = vk ? 1 : static_cast<int>(p.shape.V);
    asm volatile("" : "+r"(v_stride), "+r"(k_stride));
    E* first = slot + head * p.shape.V * K + (v0 + warp * 16 + lane / 4) * v_stride +
               lane % 4 * 2 * k_stride;
    state.for_each([&](float& x, int tile, int i) {
      body(x, first[i / 2 * 8 * v_stride + (tile * 8 + i % 2) * k_stride]);
    });
  }
  __device__ void load_state(const std::byte* slot, DType dtype) {
    if (slot == nullptr) return state.clear();
    with_element(dtype, [&](auto e) {
      using E = decltype(e);
      for_each_element(reinterpret_cast<const E*>(slot),
                       [](float& x, const E& from) { x = to_float(from); });
    });
  }
  __device__ void store_state(std::byte* slot, DType dtype) {
    if (slot == nullptr) return;
    with_element(dtype, [&](auto e) {
      using E = decltype(e);
      for_each_element(reinterpret_cast<E*>(slot),
                       [](const float& x, E& to) { to = from_float<E>(x); });
    });
  }
  __device__ void zero(const Sequence& s) const {
    const int columns = kColumns;
    for (int64_t i = threadIdx.x; i < s.length * columns; i += kThreads) {
      reinterpret_cast<T*>(p.out.at(s, i / columns, head))[v0 + i % columns] = from_float<T>(0);
    }
  }

  // Copies of a chunk's record and values, asynchronous where these are aligned.
  __device__ void fetch(Stage<K>& stage, const std::byte* k_record, const std::byte* head_record,
                        const Sequence& s, int64_t t0) const {
    const uint32_t thread = threadIdx.x;
    const auto rows = [&](__half* to, uint32_t stride, const std::byte* from, auto halves) {
      constexpr uint32_t kPerRow = decltype(halves)::value / 8;
      const uint32_t first =
          shared_address(to) + (thread / kPerRow * stride + thread % kPerRow * 8) * 2;
#pragma unroll
      for (uint32_t i = 0; i < kC * kPerRow; i += kThreads) {
        copy_async(first + i / kPerRow * stride * 2, from + (thread + i) * 16);
      }
    };
    using Wide = std::integral_constant<uint32_t, K>;
    using Square = std::integral_constant<uint32_t, kC>;
    rows(stage.k, Stage<K>::kRowStride, k_record, Wide());
    rows(stage.q, Stage<K>::kRowStride, k_record + kC * K * 2, Wide());
    rows(stage.T, kMatrixStride, head_record, Square());
    rows(stage.T_low, kMatrixStride, head_record + ChunkRecords::kMatrixBytes, Square());
    rows(stage.P, kMatrixStride, head_record + 2 * ChunkRecords::kMatrixBytes, Square());
    if (thread < kVectors * kC / 4) {
      copy_async(shared_address(&stage.vectors[0][0] + thread * 4),
                 head_record + 3 * ChunkRecords::kMatrixBytes + thread * 16);
    }
    const T* first = reinterpret_cast<const T*>(p.v.at(s, t0, head)) + v0;
    const bool aligned = is_aligned(first, 16) && p.v.token_stride % 8 == 0;
    const int valid = static_cast<int>(s.length - t0 < kC ? s.length - t0 : kC);
    if (aligned) {
      constexpr uint32_t kPerRow = kColumns / 8, kRowsAtOnce = kThreads / kPerRow;
      int t = static_cast<int>(thread / kPerRow);
      uint32_t to =
          shared_address(stage.v) + (thread / kPerRow * kValueStride + thread % kPerRow * 8) * 2;
      const T* from = first + t * p.v.token_stride + thread % kPerRow * 8;
#pragma unroll
      for (uint32_t i = 0; i < kC; i += kRowsAtOnce) {
        copy_async(to, t < valid ? from : first, t < valid ? 16 : 0);
        t += kRowsAtOnce;
        to += kRowsAtOnce * kValueStride * 2;
        from += kRowsAtOnce * p.v.token_stride;
      }
    } else {
      const auto* bits = reinterpret_cast<const uint16_t*>(first);
      for (int i = static_cast<int>(thread); i < kC * kColumns; i += kThreads) {
        const int t = i / kColumns, v = i % kColumns;
        stage.v[t * kValueStride + v] = t < valid ? bits[t * p.v.token_stride + v] : uint16_t{0};
      }
    }
  }

  // A vector at the columns of a tile of tokens.
  __device__ float2 at_tokens(const Stage<K>& stage, RecordVector which, int tile) const {
    return *reinterpret_cast<const float2*>(&stage.vectors[static_cast<int>(which)][0] + tile * 8 +
                                            lane % 4 * 2);
  }
  __device__ static float pick(const float2& x, int i) { return i % 2 == 0 ? x.x : x.y; }

  // x <- V^T - a o powers o x.
  __device__ void subtract_from_values(const Stage<K>& stage, const float (&powers)[2],
                                       TokenTiles& x) const {
    const uint32_t base = shared_address(stage.v + (lane / 16 * 8 + lane % 8) * kValueStride +
                                         warp * 16 + lane / 8 % 2 * 8);
#pragma unroll
    for (int pair = 0; pair < kC / 16; ++pair) {
      uint32_t m[4];
      load_matrices_transposed(base + static_cast<uint32_t>(pair * 16 * kValueStride * 2), m);
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        float(&c)[4] = x.x[2 * pair + tile];
        const float2 a = at_tokens(stage, RecordVector::kStateToResidual, 2 * pair + tile);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t bits = m[2 * tile + half];
          const T* v = reinterpret_cast<const T*>(&bits);
          c[2 * half] = __fmaf_rn(-a.x * powers[half], c[2 * half], to_float(v[0]));
          c[2 * half + 1] = __fmaf_rn(-a.y * powers[half], c[2 * half + 1], to_float(v[1]));
        }
      }
    }
  }

  __device__ void store_out(const TokenTiles& out, const Sequence& s, int64_t t0) const {
    T* to = reinterpret_cast<T*>(p.out.at(s, t0 + lane / 4, head)) + v0 + warp * 16 + lane % 4 * 2;
    const bool pairs = is_aligned(to, 4) && p.out.token_stride % 2 == 0;
    const int64_t left = s.length - t0;
    const int valid_tokens = static_cast<int>(left < kC ? left : kC);
#pragma unroll
    for (int tile = 0; tile < kC / 8; ++tile, to += 8 * p.out.token_stride) {
      const bool valid = tile * 8 + lane / 4 < valid_tokens;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        union {
          uint32_t bits;
          T x[2];
        } packed;
        packed.x[0] = from_float<T>(out.x[tile][2 * half]);
        packed.x[1] = from_float<T>(out.x[tile][2 * half + 1]);
        packed.bits = transpose_matrix(packed.bits);
        if (!valid) continue;
        if (pairs) {
          *reinterpret_cast<uint32_t*>(to + half * 8) = packed.bits;
        } else {
          to[half * 8] = packed.x[0];
          to[half * 8 + 1] = packed.x[1];
        }
      }
    }
  }

  __device__ void walk(const Stage<K>& stage, const Sequence& s, int64_t t0) {
    float state_powers[2];
    state.row_powers(state_powers);
    TokenTiles x, out;
    x.clear();
    out.clear();
    {
      MatrixA a[K / 16];
      state.pack(state_powers, a);
      multiply_rows<K / 16, false>(x, a, stage.k, Stage<K>::kRowStride);
      multiply_rows<K / 16, false>(out, a, stage.q, Stage<K>::kRowStride);
    }
    subtract_from_values(stage, state_powers, x);

    float powers[2];
    x.row_powers(powers);
    TokenOperand a;
    x.pack(powers, a);
    x.clear();
    multiply_rows<kC / 16, true>(x, a, stage.T, kMatrixStride);
    multiply_rows<kC / 16, true>(x, a, stage.T_low, kMatrixStride);
#pragma unroll
    for (int tile = 0; tile < kC / 8; ++tile) {
      const float2 t = at_tokens(stage, RecordVector::kSolved, tile);
#pragma unroll
      for (int i = 0; i < 4; ++i) x.x[tile][i] *= pick(t, i) * powers[i / 2];
    }

    // Outputs, in units of the rows of v_new until they are stored.
    x.row_powers(powers);
    float quotients[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      powers[half] = fmaxf(powers[half], state_powers[half] * kLeastScale);
      quotients[half] = state_powers[half] * inverse_power(powers[half]);
    }
    x.pack(powers, a);
#pragma unroll
    for (int tile = 0; tile < kC / 8; ++tile) {
      const float2 b = at_tokens(stage, RecordVector::kStateToOutput, tile);
#pragma unroll
      for (int i = 0; i < 4; ++i) out.x[tile][i] *= pick(b, i) * quotients[i / 2];
    }
    multiply_rows<kC / 16, true>(out, a, stage.P, kMatrixStride);
#pragma unroll
    for (int tile = 0; tile < kC / 8; ++tile) {
      const float2 scale = at_tokens(stage, RecordVector::kOutput, tile);
#pragma unroll
      for (int i = 0; i < 4; ++i) out.x[tile][i] *= pick(scale, i) * powers[i / 2];
    }
    store_out(out, s, t0);

    // The state, in units of the rows of d o v_new while these are added.
#pragma unroll
    for (int tile = 0; tile < kC / 8; ++tile) {
      const float2 d = at_tokens(stage, RecordVector::kToState, tile);
#pragma unroll
      for (int i = 0; i < 4; ++i) x.x[tile][i] *= pick(d, i);
    }
    x.row_powers(powers);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      powers[half] = fmaxf(powers[half], state_powers[half] * kLeastScale);
    }
    x.pack(powers, a);
    add_to_state(stage, a, powers);
  }

  __device__ void add_to_state(const Stage<K>& stage, const TokenOperand& a,
                               const float (&powers)[2]) {
    const float decay = stage.vectors[static_cast<int>(RecordVector::kDecay)][0];
    const float factors[2] = {decay * inverse_power(powers[0]), decay * inverse_power(powers[1])};
    const uint32_t base = shared_address(
        stage.k + (lane / 8 % 2 * 8 + lane % 8) * Stage<K>::kRowStride + lane / 16 * 8);
#pragma unroll
    for (int pair = 0; pair < K / 16; ++pair) {
      float(&low)[4] = state.x[2 * pair];
      float(&high)[4] = state.x[2 * pair + 1];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        low[i] *= factors[i / 2];
        high[i] *= factors[i / 2];
      }
#pragma unroll
      for (int step = 0; step < kC / 16; ++step) {
        uint32_t m[4];
        load_matrices_transposed(
            base + static_cast<uint32_t>((step * 16 * Stage<K>::kRowStride + pair * 16) * 2), m);
        multiply_add(low, a[step], m[0], m[1]);
        multiply_add(high, a[step], m[2], m[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        low[i] *= powers[i / 2];
        high[i] *= powers[i / 2];
      }
    }
  }
};

template <class T, int K>
__global__ void __launch_bounds__(kThreads)
    recurrence_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag,
                      const ChunkRecords records, const std::byte* workspace, int stages) {
  extern __shared__ float4 memory[];
  Stage<K>* stage = reinterpret_cast<Stage<K>*>(memory);
  const Shape& shape = p.shape;
  const uint32_t parts = static_cast<uint32_t>(shape.V) / kColumns;
  const uint32_t heads = static_cast<uint32_t>(shape.value_heads);
  const int64_t head = blockIdx.x / parts % heads, n = blockIdx.x / parts / heads;
  Walker<T, K> walker{p, head, static_cast<int>(blockIdx.x % parts) * kColumns};
  if (n >= p.sequences.count) return walker.zero(tail_of(p.sequences));
  const Sequence s = sequence_of(p.sequences, n, flag);
  const InitialState initial = initial_of(p, n, flag);
  if (initial.skip) return walker.zero(s);

  const int64_t chunks = (s.length + kC - 1) / kC;
  const int64_t qk_head = head / (shape.value_heads / shape.heads);
  const int64_t first = ChunkTable{p.sequences, kC}.first_chunk(n);
  const auto fetch = [&](int64_t c) {
    if (c < chunks) {
      const int64_t number = first + c;
      walker.fetch(stage[c % stages],
                   workspace + (number * shape.heads + qk_head) * records.group_bytes(),
                   workspace + records.head_begin() +
                       (number * shape.value_heads + head) * ChunkRecords::kHeadBytes,
                   s, c * kC);
    }
    commit_copies();
  };
  fetch(0);
  walker.load_state(initial.data, p.initial_state.dtype);
  for (int64_t c = 0; c < chunks; ++c) {
    if (stages > 1) {
      fetch(c + 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    walker.walk(stage[c % stages], s, c * kC);
    const int64_t done = (c + 1) * kC, every = p.checkpoint_every;
    if (every > 0 && done % every == 0 && done <= s.length) {
      walker.store_state(checkpoint_of(p, n, done / every - 1, flag), p.checkpoints.dtype);
    }
    __syncthreads();  // all warps are done with the stage
    if (stages == 1) fetch(c + 1);
  }
  walker.store_state(final_slot_of(p, n, 0, flag), p.final_state.dtype);
}

}  // namespace

Status walk_chunks(const DeltaRuleProblem& problem, const Device& device,
                   const std::byte* workspace, const Stream& stream) {
  const Shape& shape = problem.shape;
  const ChunkRecords records(shape);
  // One sequence more for the rows past the last one.
  const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
  const int64_t blocks = sequences * shape.value_heads * (shape.V / kColumns);
  const auto run = [&](auto element, auto k) {
    constexpr int K = decltype(k)::value;
    const bool two = 2 * sizeof(Stage<K>) <= static_cast<size_t>(device.shared_bytes_per_block);
    const int stages = two ? 2 : 1;
    return launch(&recurrence_kernel<decltype(element), K>,
                  {blocks, kThreads, stages * sizeof(Stage<K>), stream.stream}, problem,
                  Flag{stream.out_of_range}, records, workspace, stages);
  };
  const auto with_k = [&](auto element) {
    return shape.K == 64 ? run(element, std::integral_constant<int, 64>())
                         : run(element, std::integral_constant<int, 128>());
  };
  return shape.dtype == DType::kBF16 ? with_k(__nv_bfloat16()) : with_k(__half());
}

}  // namespace gdn::cuda
