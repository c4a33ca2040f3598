// The second kernel of the chunk operator on Hopper: a block owns 64 V columns of a (sequence,
// value head) and walks its chunks, a warpgroup with the state (chunk_sm90_state.cuh) and three
// warps that move (chunk_sm90_movers.cuh).
#include "cuda/chunk_sm90_movers.cuh"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/chunk_sm90_state.cuh"
#include "cuda/chunk_table.cuh"
#include "cuda/dependent.cuh"
#include "cuda/launch.h"
#include "cuda/resolve.cuh"

namespace gdn::cuda::sm90 {
namespace {

constexpr int kThreads = kGroup + 3 * kWarp;

template <class T>
__device__ void zero_columns(const DeltaRuleProblem& p, const Sequence& s, int64_t head, int v0) {
  for (int64_t i = threadIdx.x; i < s.length * kColumns; i += kThreads) {
    reinterpret_cast<T*>(p.out.at(s, i / kColumns, head))[v0 + i % kColumns] = from_float<T>(0);
  }
}

template <int K>
__device__ void init_barriers(Shared<K>& m) {
  const auto init = [](uint64_t& barrier, int arrivals) {
    init_barrier(shared_address(&barrier), arrivals);
  };
  for (uint64_t& barrier : m.tokens_full) init(barrier, 1);  // and the bytes
  for (uint64_t& barrier : m.prepared_full) init(barrier, 1);
  for (uint64_t& barrier : m.tokens_empty) init(barrier, kStateWarps);
  for (uint64_t& barrier : m.prepared_empty) init(barrier, kStateWarps);
  for (uint64_t& barrier : m.out_full) init(barrier, kStateWarps);
  for (uint64_t& barrier : m.out_empty) init(barrier, 1);
  fence_barrier_init();
}

// The rows of T and P above the diagonal, which no copy writes.
template <int K>
__device__ void zero_above(Shared<K>& m) {
  for (Prepared<K>& stage : m.prepared) {
    for (Panels* matrix : {&stage.T_high, &stage.T_low, &stage.P}) {
      for (int p = 1; p < Panels::kCount; ++p) {
        const int parts = p * HeadRecord::kTileBytes / 16, i = static_cast<int>(threadIdx.x);
        if (i < parts) reinterpret_cast<uint4*>(matrix->panel[p])[i] = uint4{};
      }
    }
  }
  fence_async_proxy();
}

template <class T, int K>
__global__ void __launch_bounds__(kThreads, 1)
    walk_kernel(const __grid_constant__ DeltaRuleProblem p, const __grid_constant__ TokenMaps maps,
                const Flag flag, const Records records, const Part part, std::byte* workspace) {
  extern __shared__ __align__(1024) std::byte memory[];
  Shared<K>& m = *reinterpret_cast<Shared<K>*>(memory);
  const Shape& shape = p.shape;
  const uint32_t parts = static_cast<uint32_t>(shape.V) / kColumns;
  const uint32_t heads = static_cast<uint32_t>(shape.value_heads);
  const int64_t head = blockIdx.x / parts % heads, n = blockIdx.x / parts / heads;
  const int v0 = static_cast<int>(blockIdx.x % parts) * kColumns;
  wait_for_kernel_before();
  if (n >= p.sequences.count) {
    if (part.last) zero_columns<T>(p, tail_of(p.sequences), head, v0);
    return;
  }
  const Sequence s = sequence_of(p.sequences, n, flag);
  const int64_t chunks = (s.length + kChunk - 1) / kChunk;
  const int64_t number = ChunkTable{p.sequences, kChunk}.first_chunk(n);
  // A sequence without tokens has a number, too.
  if (number >= part.end || number + max(chunks, int64_t{1}) <= part.first) return;
  const bool begins = number >= part.first, ends = number + chunks <= part.end;
  const InitialState initial = initial_of(p, n, flag);
  if (initial.skip) {
    if (begins) zero_columns<T>(p, s, head, v0);
    return;
  }
  const Block block{s,
                    static_cast<int>(head / (shape.value_heads / shape.heads)),
                    static_cast<int>(head),
                    v0,
                    number,
                    begins ? 0 : part.first - number,
                    ends ? chunks : part.end - number};
  if (threadIdx.x == 0) init_barriers(m);
  zero_above(m);
  __syncthreads();

  const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarp, 0);
  if (warp == kStateWarps) return load_tokens<T>(m, p, maps, block);
  if (warp == kStateWarps + 1) return load_prepared(m, records, part, workspace, block);
  if (warp == kStateWarps + 2) return store_outputs<T>(m, p, maps, block);

  StateColumns<T, K> state{m};
  const int64_t offset = head * shape.V * K + (shape.layout == StateLayout::kVK ? v0 * K : v0);
  const auto at = [&](std::byte* slot, DType dtype) {
    return slot == nullptr ? nullptr : slot + offset * size_of(dtype);
  };
  const int64_t carried = (head * shape.V + v0) * K * size_of(DType::kF32);
  if (begins) {
    state.load(at(const_cast<std::byte*>(initial.data), p.initial_state.dtype),
               p.initial_state.dtype, shape.V, shape.layout);
  } else {
    state.load(records.carried_state(workspace, part.index - 1) + carried, DType::kF32, shape.V,
               StateLayout::kVK);
  }
  const int64_t every = p.checkpoint_every / kChunk;
  for (int64_t c = block.begin; c < block.end;) {
    const int64_t left = block.end - c;
    const int64_t to_checkpoint = every > 0 ? every - c % every : left;
    const int64_t span = to_checkpoint < left ? to_checkpoint : left;
    state.walk(c - block.begin, span);
    c += span;
    if (every > 0 && c % every == 0 && c * kChunk <= s.length) {
      state.store(at(checkpoint_of(p, n, c / every - 1, flag), p.checkpoints.dtype),
                  p.checkpoints.dtype, shape.V, shape.layout);
    }
  }
  if (ends) {
    state.store(at(final_slot_of(p, n, 0, flag), p.final_state.dtype), p.final_state.dtype, shape.V,
                shape.layout);
  } else {
    state.store(records.carried_state(workspace, part.index) + carried, DType::kF32, shape.V,
                StateLayout::kVK);
  }
}

}  // namespace

TokenMaps token_maps(const DeltaRuleProblem& problem) {
  const Shape& shape = problem.shape;
  TokenMaps maps{};
  const int64_t batch = problem.sequences.cu_seqlens.given() ? 1 : shape.sequences;
  const auto map = [&](const TokenTensor& x, int64_t heads, int64_t d, CUtensorMap* to) {
    return make_tensor_map(x, batch, problem.sequences.row_length, heads, d, to);
  };
  maps.given = map(problem.k, shape.heads, shape.K, &maps.k) &&
               map(problem.q, shape.heads, shape.K, &maps.q) &&
               map(problem.v, shape.value_heads, shape.V, &maps.v) &&
               map(problem.out, shape.value_heads, shape.V, &maps.out);
  return maps;
}

Status walk(const DeltaRuleProblem& problem, const TokenMaps& maps, const Records& records,
            const Part& part, std::byte* workspace, const Stream& stream) {
  const Shape& shape = problem.shape;
  // One sequence more for the rows past the last one.
  const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
  const int64_t blocks = sequences * shape.value_heads * (shape.V / kColumns);
  const auto run = [&](auto element, auto k) {
    constexpr int K = decltype(k)::value;
    return launch(&walk_kernel<decltype(element), K>,
                  {blocks, kThreads, sizeof(Shared<K>), stream.stream, true}, problem, maps,
                  Flag{stream.out_of_range}, records, part, workspace);
  };
  const auto with_k = [&](auto element) {
    return shape.K == 64 ? run(element, std::integral_constant<int, 64>())
                         : run(element, std::integral_constant<int, 128>());
  };
  return shape.dtype == DType::kBF16 ? with_k(__nv_bfloat16()) : with_k(__half());
}

}  // namespace gdn::cuda::sm90
