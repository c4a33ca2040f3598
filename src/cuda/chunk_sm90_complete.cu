// Of the context split (chunk_sm90_segments.h), where the second segment is walked once: a block
// completes the output of a chunk, value head and 64 columns of V with what the state before the
// segment adds to it, O = S Q'^T + what the walk from zero left; or a piece of the state after it.
#include "cuda/chunk_sm90_movers.cuh"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/chunk_sm90_state.cuh"
#include "cuda/dependent.cuh"
#include "cuda/launch.h"

namespace gdn::cuda::sm90 {
namespace {

template <int K>
struct CompleteShared {
  alignas(1024) std::byte queries[K / 64 * kTileBytes];
  alignas(1024) std::byte out[kTileBytes];
  uint64_t full;
};

// Asked for before it is known whether there is anything to do, which is a load of its own.
__device__ __forceinline__ void prefetch_line(const void* line) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(line));
}

// 64 rows of a float32 state [V,K], packed as the left operand of a product; over the unit in which
// the other one is.
template <int K>
__device__ __forceinline__ void load_packed(const float* rows, uint32_t (&packed)[K / 4]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto* first = reinterpret_cast<const float2*>(rows + (warp * 16 + lane / 4) * K) + lane % 4;
#pragma unroll
  for (int tile = 0; tile < K / 8; ++tile) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float2 s = first[r * 8 * (K / 2) + tile * 4];
      packed[2 * tile + r] =
          pack_pair<__nv_bfloat16>(s.x * (1 / kTransitionUnit), s.y * (1 / kTransitionUnit));
    }
  }
}

// A block's share: a chunk of 64 columns of V, or a piece of the state after a last segment.
constexpr int kStateRows = 16, kStateColumns = 64;
// A step of the fold (chunk_sm90_fold.cu) by fewer threads: one has four columns of a part of M's
// rows, all in flight at once, for all rows of S.
template <int K>
struct StateShared {
  static constexpr int kQuads = kStateColumns / 4, kParts = kGroup / kQuads;
  alignas(16) float state[K][kStateRows + 4];  // 16 would put all of a column in two banks
  alignas(16) float sums[kParts][kStateRows][kStateColumns];
};

template <int K>
__device__ __forceinline__ void complete_state(StateShared<K>& m, const DeltaRuleProblem& p,
                                               const Layout& layout, std::byte* workspace,
                                               uint32_t block) {
  constexpr int kQuads = StateShared<K>::kQuads, kParts = StateShared<K>::kParts;
  constexpr int kPart = K / kParts, kShare = kStateRows * kStateColumns / kGroup;
  const auto row_parts = static_cast<uint32_t>(p.shape.V / kStateRows);
  const int column0 = static_cast<int>(block % (K / kStateColumns)) * kStateColumns;
  block /= K / kStateColumns;
  const int64_t row = block % row_parts * kStateRows;
  const int64_t head = block / row_parts;
  const Boundaries& boundaries = layout.boundaries;
  const int thread = static_cast<int>(threadIdx.x);
  const int quad = thread % kQuads, part = thread / kQuads;
  const auto* transition =
      reinterpret_cast<const float4*>(boundaries.transition(workspace, 0, head) + column0 +
                                      part * kPart * K) +
      quad;
  // A line of 32 floats, by a thread in eight.
  if (quad % 8 == 0) {
#pragma unroll
    for (int i = 0; i < kPart; ++i) prefetch_line(transition + i * (K / 4));
  }
  std::byte* end = layout.partials.place(workspace)->end;
  if (end == nullptr) return;
  float4 M[kPart];
#pragma unroll
  for (int i = 0; i < kPart; ++i) M[i] = transition[i * (K / 4)];
  const float* state = boundaries.state(workspace, 0, head) + row * K;
#pragma unroll
  for (int i = thread; i < kStateRows * K; i += kGroup) m.state[i % K][i / K] = state[i];
  // Of N and the result, a thread has a column of some rows.
  const int column = column0 + thread % kStateColumns;
  const int first_row = thread / kStateColumns * kShare;
  const float* from_zero =
      boundaries.from_zero(workspace, 0, head) + (row + first_row) * K + column;
  float N[kShare];
#pragma unroll
  for (int r = 0; r < kShare; ++r) N[r] = from_zero[r * K];
  __syncthreads();
  float4 sums[kStateRows] = {};
#pragma unroll
  for (int i = 0; i < kPart; ++i) {
    const float* s = m.state[part * kPart + i];
#pragma unroll
    for (int r = 0; r < kStateRows; ++r) {
      sums[r] = {__fmaf_rn(s[r], M[i].x, sums[r].x), __fmaf_rn(s[r], M[i].y, sums[r].y),
                 __fmaf_rn(s[r], M[i].z, sums[r].z), __fmaf_rn(s[r], M[i].w, sums[r].w)};
    }
  }
#pragma unroll
  for (int r = 0; r < kStateRows; ++r) {
    *reinterpret_cast<float4*>(&m.sums[part][r][quad * 4]) = sums[r];
  }
  __syncthreads();
  const bool vk = p.shape.layout == StateLayout::kVK;
  const int64_t v_stride = vk ? K : 1, k_stride = vk ? 1 : p.shape.V;
  const int64_t first = head * p.shape.V * K + (row + first_row) * v_stride + column * k_stride;
#pragma unroll
  for (int r = 0; r < kShare; ++r) {
#pragma unroll
    for (int q = 0; q < kParts; ++q) {
      N[r] = __fadd_rn(N[r], m.sums[q][first_row + r][column - column0]);
    }
    store_element(end, p.final_state.dtype, N[r], first + r * v_stride);
  }
}

// Whether row lane / 4 + 8 r of a packed state is all zeros.
template <int K>
__device__ __forceinline__ bool row_is_zero(const uint32_t (&packed)[K / 4], int r) {
  uint32_t bits = 0;
#pragma unroll
  for (int tile = 0; tile < K / 8; ++tile) bits |= packed[2 * tile + r] & 0x7fff7fffu;
  bits |= __shfl_xor_sync(kAllLanes, bits, 1);
  return (bits | __shfl_xor_sync(kAllLanes, bits, 2)) == 0;
}

// A row of zeros adds nothing, be Q' a number or not.
template <int K>
__device__ __forceinline__ void complete_chunk(CompleteShared<K>& m, const DeltaRuleProblem& p,
                                               const TokenMaps& maps, const Layout& layout,
                                               std::byte* workspace, uint32_t number) {
  using T = __nv_bfloat16;
  using State = StateColumns<T, K, 1>;
  const Partials& partials = layout.partials;
  const auto columns = static_cast<uint32_t>(p.shape.V / kColumns);
  const auto heads = static_cast<uint32_t>(p.shape.value_heads);
  const int v0 = static_cast<int>(number % columns) * kColumns;
  const int head = static_cast<int>(number / columns % heads);
  const int chunk = static_cast<int>(number / columns / heads);
  const float* state = layout.boundaries.state(workspace, 0, head) + v0 * K;
  const std::byte* output = partials.output(workspace, chunk, head, v0);
  prefetch_line(output + threadIdx.x * 128);
#pragma unroll
  for (int i = 0; i < K / 64; ++i) prefetch_line(state + (i * kGroup + threadIdx.x) * 32);
  const PartialPlace place = *partials.place(workspace);
  if (chunk * kChunk >= place.tokens) return;
  const Block block{Walk::kSegment,
                    true,
                    nullptr,
                    Sequence{place.batch, place.token, place.tokens},
                    0,
                    head,
                    v0,
                    0,
                    chunk,
                    chunk + 1};

  const uint32_t full = shared_address(&m.full);
  if (threadIdx.x == 0) {
    init_barrier(full, 1);
    fence_barrier_init();
    arrive_expecting(full, sizeof m.queries);
    copy_bulk_in(shared_address(m.queries), partials.queries(workspace, chunk, head, 0),
                 sizeof m.queries, full);
  }
  __syncthreads();
  float out[kChunk / 2], added[kChunk / 2];
#pragma unroll
  for (int i = 0; i < kChunk / 8; ++i) {
    const float4 four = *reinterpret_cast<const float4*>(output + accumulators_at(i));
    out[4 * i] = four.x, out[4 * i + 1] = four.y, out[4 * i + 2] = four.z, out[4 * i + 3] = four.w;
  }
  uint32_t packed_S[K / 4];
  load_packed<K>(state, packed_S);
  wait_barrier(full, 0);
  const uint64_t queries = State::operand_of(m.queries);
  fence_wgmma();
#pragma unroll
  for (int step = 0; step < K / 16; ++step) {
    multiply_64x64<T, Major::kK>(added, State::operand(packed_S, step),
                                 State::at_step(queries, step), step > 0);
  }
  commit_wgmma();
  const bool none[2] = {row_is_zero<K>(packed_S, 0), row_is_zero<K>(packed_S, 1)};
  wait_wgmma<0>();
  pin(added);
#pragma unroll
  for (int i = 0; i < kChunk / 2; ++i) {
    if (!none[i / 2 % 2]) out[i] = __fadd_rn(out[i], added[i]);
  }
  uint32_t packed[kChunk / 4];
#pragma unroll
  for (int i = 0; i < kChunk / 4; ++i) packed[i] = pack_pair<T>(out[2 * i], out[2 * i + 1]);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  store_transposed(shared_address(m.out) + transposed_row(warp, lane), packed);
  fence_async_proxy();
  __syncthreads();
  if (!maps.given || block.valid_tokens(chunk) < kChunk) {
    if (warp == 0) Pieces<T, kColumns>(p.out, block, chunk, head, v0).store(m.out);
  } else if (threadIdx.x == 0) {
    store_tile(maps.out, block.position(chunk, head, v0), shared_address(m.out));
    commit_bulk();
    wait_bulk_read<0>();
  }
}

// The pieces of states come first: they take longer.
template <int K>
__global__ void __launch_bounds__(kGroup, 3)
    complete_kernel(const __grid_constant__ DeltaRuleProblem p,
                    const __grid_constant__ TokenMaps maps, const __grid_constant__ Layout layout,
                    std::byte* workspace, const uint32_t states) {
  __shared__ union {
    CompleteShared<K> chunk;
    StateShared<K> state;
  } m;
  wait_for_kernel_before();
  if (blockIdx.x < states) {
    complete_state<K>(m.state, p, layout, workspace, blockIdx.x);
  } else {
    complete_chunk<K>(m.chunk, p, maps, layout, workspace, blockIdx.x - states);
  }
}

}  // namespace

Status complete(const DeltaRuleProblem& problem, const TokenMaps& maps, const Layout& layout,
                std::byte* workspace, const Stream& stream) {
  const Shape& shape = problem.shape;
  const int64_t chunks = layout.partials.chunks * shape.value_heads * (shape.V / kColumns);
  const int64_t states = problem.final_state.given() ? shape.value_heads * (shape.V / kStateRows) *
                                                           (shape.K / kStateColumns)
                                                     : 0;
  const auto run = [&](auto k) {
    return launch(&complete_kernel<decltype(k)::value>,
                  {states + chunks, kGroup, 0, stream.stream, true}, problem, maps, layout,
                  workspace, static_cast<uint32_t>(states));
  };
  return shape.K == 64 ? run(std::integral_constant<int, 64>())
                       : run(std::integral_constant<int, 128>());
}

}  // namespace gdn::cuda::sm90
