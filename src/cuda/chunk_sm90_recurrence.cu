// The second kernel of the chunk operator on Hopper: a block owns 64 V columns of a (sequence,
// value head) and walks its chunks. One warpgroup has the state (chunk_sm90_state.cuh), the other
// moves (chunk_sm90_movers.cuh).
#include "cuda/chunk_sm90_movers.cuh"
#include "cuda/chunk_sm90_output.cuh"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/chunk_sm90_state.cuh"
#include "cuda/chunk_table.cuh"
#include "cuda/dependent.cuh"
#include "cuda/launch.h"
#include "cuda/resolve.cuh"

namespace gdn::cuda::sm90 {
namespace {

constexpr int kThreads = 4 * kGroup;

template <class T>
__device__ void zero_columns(const DeltaRuleProblem& p, const Sequence& s, int64_t head, int v0) {
  for (int64_t i = threadIdx.x; i < s.length * kColumns; i += kThreads) {
    reinterpret_cast<T*>(p.out.at(s, i / kColumns, head))[v0 + i % kColumns] = from_float<T>(0);
  }
}

template <int K>
__device__ void init_barriers(Shared<K>& m) {
  constexpr uint32_t kWarps = kGroup / kWarp;
  for (int i = 0; i < kStages; ++i) {
    init_barrier(shared_address(&m.full[i]), 1);  // and the bytes
    init_barrier(shared_address(&m.k_read[i]), kWarps);
    init_barrier(shared_address(&m.k_ready[i]), kGroup);
    init_barrier(shared_address(&m.empty[i]), 2 * kWarps);
  }
  for (int i = 0; i < 4; ++i) {
    init_barrier(shared_address(&m.state_full[i]), 1);
    init_barrier(shared_address(&m.state_empty[i]), 1);
    init_barrier(shared_address(&m.v_new_full[i]), 1);
    init_barrier(shared_address(&m.v_new_empty[i]), 1);
  }
  fence_barrier_init();
}

template <class T, int K>
__global__ void __launch_bounds__(kThreads, 1)
    walk_kernel(const __grid_constant__ DeltaRuleProblem p, const __grid_constant__ TokenMaps maps,
                const Flag flag, const std::byte* records) {
  extern __shared__ __align__(1024) std::byte memory[];
  static_assert(alignof(Shared<K>) == 1024);
  Shared<K>& m = *reinterpret_cast<Shared<K>*>(memory);
  const Shape& shape = p.shape;
  const uint32_t parts = static_cast<uint32_t>(shape.V) / kColumns;
  const uint32_t heads = static_cast<uint32_t>(shape.value_heads);
  const int64_t head = blockIdx.x / parts % heads, n = blockIdx.x / parts / heads;
  const int v0 = static_cast<int>(blockIdx.x % parts) * kColumns;
  wait_for_kernel_before();
  if (n >= p.sequences.count) return zero_columns<T>(p, tail_of(p.sequences), head, v0);
  const Sequence s = sequence_of(p.sequences, n, flag);
  const InitialState initial = initial_of(p, n, flag);
  if (initial.skip) return zero_columns<T>(p, s, head, v0);

  const int64_t chunks = (s.length + kChunk - 1) / kChunk;
  if (threadIdx.x == 0) init_barriers(m);
  __syncthreads();

  // Registers, 512 for four threads: the state needs most.
  const int role = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kGroup, 0);
  if (role == 0) {
    take_registers<232>();
    StateColumns<T, K> state{m};
    const int64_t block = (head * shape.V + v0) * K;
    const int64_t block_kv = head * shape.V * K + v0;
    const int64_t offset = shape.layout == StateLayout::kVK ? block : block_kv;
    const auto at = [&](std::byte* slot, DType dtype) {
      return slot == nullptr ? nullptr : slot + offset * size_of(dtype);
    };
    state.load(at(const_cast<std::byte*>(initial.data), p.initial_state.dtype),
               p.initial_state.dtype, shape.V, shape.layout);
    Cursor cursor;
    const int64_t every = p.checkpoint_every / kChunk;
    for (int64_t c = 0; c < chunks;) {
      const int64_t span = every > 0 && every < chunks - c ? every : chunks - c;
      state.walk(cursor, c, span);
      c += span;
      if (every > 0 && c % every == 0 && c * kChunk <= s.length) {
        state.store(at(checkpoint_of(p, n, c / every - 1, flag), p.checkpoints.dtype),
                    p.checkpoints.dtype, shape.V, shape.layout);
      }
    }
    state.store(at(final_slot_of(p, n, 0, flag), p.final_state.dtype), p.final_state.dtype, shape.V,
                shape.layout);
  } else if (role == 1) {
    take_registers<144>();
    T* first = reinterpret_cast<T*>(p.out.at(s, 0, head)) + v0;
    OutputColumns<T, K>{m, s, first, p.out.token_stride}.run(chunks);
  } else if (role == 2) {
    give_registers<88>();
    convert_keys<T>(m, chunks);
  } else {
    give_registers<48>();
    const int64_t number = ChunkTable{p.sequences, kChunk}.first_chunk(n);
    const int64_t qk_head = head / (shape.value_heads / shape.heads);
    constexpr auto kBytes = static_cast<int64_t>(sizeof(HeadRecord));
    Loader<T, K>{m,
                 maps,
                 s,
                 static_cast<int>(qk_head),
                 static_cast<int>(head),
                 v0,
                 Rows<T>(p.k, s, qk_head, 0),
                 Rows<T>(p.q, s, qk_head, 0),
                 Rows<T>(p.v, s, head, v0),
                 records + (number * shape.value_heads + head) * kBytes,
                 shape.value_heads * kBytes}
        .run(chunks);
  }
}

}  // namespace

Status walk(const DeltaRuleProblem& problem, const std::byte* workspace, const Stream& stream) {
  const Shape& shape = problem.shape;
  // One sequence more for the rows past the last one.
  const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
  const int64_t blocks = sequences * shape.value_heads * (shape.V / kColumns);
  TokenMaps maps{};
  const int64_t batch = problem.sequences.cu_seqlens.given() ? 1 : shape.sequences;
  const auto map = [&](const TokenTensor& x, int64_t heads, int64_t d, CUtensorMap* to) {
    return make_tensor_map(x, batch, problem.sequences.row_length, heads, d, to);
  };
  maps.given = map(problem.k, shape.heads, shape.K, &maps.k) &&
               map(problem.q, shape.heads, shape.K, &maps.q) &&
               map(problem.v, shape.value_heads, shape.V, &maps.v);
  const auto run = [&](auto element, auto k) {
    constexpr int K = decltype(k)::value;
    return launch(&walk_kernel<decltype(element), K>,
                  {blocks, kThreads, sizeof(Shared<K>), stream.stream, true}, problem, maps,
                  Flag{stream.out_of_range}, workspace);
  };
  const auto with_k = [&](auto element) {
    return shape.K == 64 ? run(element, std::integral_constant<int, 64>())
                         : run(element, std::integral_constant<int, 128>());
  };
  return shape.dtype == DType::kBF16 ? with_k(__nv_bfloat16()) : with_k(__half());
}

}  // namespace gdn::cuda::sm90
