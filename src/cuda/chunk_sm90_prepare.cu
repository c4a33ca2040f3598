// The first kernel of the chunk operator on Hopper: the records (chunk_sm90_record.h) of all
// chunks. Four warps have a chunk and up to four value heads of a q/k head, an item: k and q to
// shared memory, their Gram matrices by wgmma, and for each value head the decays, the masked
// matrices and the exact inverse (chunk_sm90_inverse.cuh). docs/kernels/chunk-sm90.md describes it.
#include "cuda/chunk_beside.h"
#include "cuda/chunk_sm90_decays.cuh"
#include "cuda/chunk_sm90_gram.cuh"
#include "cuda/chunk_sm90_masked.cuh"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/chunk_sm90_team.cuh"
#include "cuda/chunk_table.cuh"
#include "cuda/dependent.cuh"
#include "cuda/divisor.cuh"
#include "cuda/hopper.cuh"
#include "cuda/launch.h"
#include "cuda/mma.cuh"
#include "cuda/wgmma.cuh"

namespace gdn::cuda::sm90 {
namespace {

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

// --- The kernels

// P_power: 1 if float16 has the digits P needs up to what |q_i| and |k_j| allow.
__device__ __forceinline__ float power_of_P(float scale, float k_square, float q_square) {
  constexpr float kLeast = 1.0f / 64, kMost = 32768;
  const float most = fabsf(scale) * sqrtf(k_square) * sqrtf(q_square);
  return most >= kLeast && most < kMost ? 1.0f : power_of_two(most);
}
__device__ __forceinline__ float largest_of(const uint32_t (&bits)[kTiles]) {
  return __uint_as_float(max(max(bits[0], bits[1]), max(bits[2], bits[3])));
}

template <class T, int K>
__device__ __forceinline__ void prepare_item(PrepareShared& m, const DeltaRuleProblem& p,
                                             const Flag& flag, const Records& places,
                                             const Part& part, std::byte* workspace,
                                             const Items& items, uint32_t item) {
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
__global__ void __launch_bounds__(kTeamThreads, kBlocksPerMultiprocessor)
    prepare_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag,
                   const Records places, const Part part, std::byte* workspace, const Items items,
                   const Beside beside) {
  extern __shared__ __align__(1024) std::byte memory[];
  PrepareShared& m = *reinterpret_cast<PrepareShared*>(memory);
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
__global__ void __launch_bounds__(kTeams* kTeamThreads, 1)
    prepare_beside_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag,
                          const Records places, const Part part, std::byte* workspace,
                          const Items items, const int team_bytes, const Beside beside) {
  extern __shared__ __align__(1024) std::byte memory[];
  const int team = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kTeamThreads, 0);
  PrepareShared& m = *reinterpret_cast<PrepareShared*>(memory + team * team_bytes);
  uint32_t* flags = beside.flags(workspace);
  const uint32_t touched = touch(p);
  wait_for_memory_of_kernel_before();
  use(touched);
  for (uint32_t item = blockIdx.x + threadIdx.x * gridDim.x; item < items.count;
       item += kTeams * kTeamThreads * gridDim.x) {
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
    const size_t shared =
        sizeof(PrepareShared) + static_cast<size_t>(heads_at_once) * sizeof(HeadGates);
    if (beside.blocks > 0) {
      const size_t of_team = (shared + 1023) / 1024 * 1024;
      return launch(&prepare_beside_kernel<decltype(element), decltype(k)::value>,
                    {std::min<int64_t>(beside.blocks, count), kTeams * kTeamThreads,
                     kTeams * of_team, stream.stream, true},
                    problem, Flag{stream.out_of_range}, records, part, workspace, items,
                    static_cast<int>(of_team), beside);
    }
    return launch(&prepare_kernel<decltype(element), decltype(k)::value, kBlocksPerMultiprocessor>,
                  {count, kTeamThreads, shared, stream.stream, true}, problem,
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
