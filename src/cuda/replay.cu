// Replay: the recurrent kernel's tile folds in the accepted records, stores the state, and verifies
// the tokens on what it still has in its registers. All value heads and columns of a q/k head read
// the records' keys and decays, so that these are replaced by a second, small kernel after it; v_new
// belongs to the lanes of a column alone.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/resolve.cuh"
#include "cuda/state_tile.cuh"

namespace gdn::cuda {
namespace {

// Where the parts of record t of a slot begin.
__device__ std::byte* record_k(const ReplayProblem& p, int64_t slot, int64_t t, int64_t qk_head) {
  return p.record_k.at(slot, (t * p.shape.heads + qk_head) * p.shape.K);
}
__device__ std::byte* record_v(const ReplayProblem& p, int64_t slot, int64_t t, int64_t head) {
  return p.record_v.at(slot, (t * p.shape.value_heads + head) * p.shape.V);
}
__device__ std::byte* record_g(const ReplayProblem& p, int64_t slot, int64_t t, int64_t head) {
  return p.record_g.at(slot, t * p.shape.value_heads + head);
}

// The tokens of sequence n, and its slot; padding where they are more than there is room for.
struct Work {
  Sequence s;
  ReplaySlot slot;
};
__device__ Work work_of(const ReplayProblem& p, int64_t n, const Flag& flag) {
  Work work{{}, replay_slot_of(p, n, flag)};
  if (!p.verifies()) return work;
  work.s = sequence_of(p.sequences, n, flag);
  if (work.slot.slot >= 0 && flag.raise_if(work.s.length > p.record_tokens)) work.slot.slot = -1;
  return work;
}

template <class T, bool kVK, int kPerLane>
__global__ void __launch_bounds__(128, resident_blocks(kPerLane))
    replay_kernel(const __grid_constant__ ReplayProblem p, const Flag flag, int parts) {
  using Tile = StateTile<T, kVK, kPerLane>;
  const Shape& shape = p.shape;
  const WarpPlace place(static_cast<uint32_t>(shape.value_heads), static_cast<uint32_t>(parts));
  const int K = static_cast<int>(shape.K), V = static_cast<int>(shape.V);
  const int64_t n = place.n, head = place.head;
  Tile tile(K, V, static_cast<int>(place.part) * columns_per_warp(kPerLane));
  if (n >= p.sequences.count) {
    if (n == p.sequences.count && p.verifies()) {
      tile.zero_columns(p.out, tail_of(p.sequences), head);
    }
    return;
  }
  const Work work = work_of(p, n, flag);
  if (work.slot.slot < 0) {
    if (p.verifies()) tile.zero_columns(p.out, work.s, head);
    return;
  }
  const int64_t slot = work.slot.slot;
  std::byte* state = p.state.at(slot, head * V * K);
  tile.load(state);
  const int64_t qk_head = head / (shape.value_heads / shape.heads);
  float k[kPerLane], v_new[Tile::kColumns];
  for (int64_t t = 0; t < work.slot.accepted; ++t) {
    tile.map.load_row(record_k(p, slot, t, qk_head), p.record_k.dtype, K, k);
    tile.load_columns(record_v(p, slot, t, head), p.record_v.dtype, v_new);
    tile.fold(load_element(record_g(p, slot, t, head), p.record_g.dtype), v_new, k);
  }
  if (work.slot.accepted > 0) tile.store(state, p.state.dtype);
  if (!p.verifies()) return;
  __syncwarp();  // all lanes have read the old v_new
  for (int64_t t = 0; t < work.s.length; ++t) {
    float q[kPerLane], v[Tile::kColumns], out[Tile::kColumns];
    tile.map.load_row(p.k.at(work.s, t, qk_head), p.k.dtype, K, k);
    tile.map.load_row(p.q.at(work.s, t, qk_head), p.q.dtype, K, q);
    tile.load_columns(p.v.at(work.s, t, head), p.v.dtype, v);
    const Gate gate = load_gate(p.gates, work.s, t, head);
    if (p.use_qk_l2norm) {
      Tile::Map::l2norm(k, p.l2norm_eps);
      Tile::Map::l2norm(q, p.l2norm_eps);
    }
    tile.step(k, q, Tile::Map::dot(k, q), gate, p.scale, v, v_new, out);
    tile.store_columns(p.out.at(work.s, t, head), p.out.dtype, out);
    tile.store_columns(record_v(p, slot, t, head), p.record_v.dtype, v_new);
  }
}

// The keys and decays of the new records: a warp for a token and q/k head of a sequence.
template <int kPerLane>
__global__ void __launch_bounds__(128)
    record_kernel(const __grid_constant__ ReplayProblem p, const Flag flag) {
  using Map = LaneMap<float, true, kPerLane>;
  const Shape& shape = p.shape;
  const int64_t group = shape.value_heads / shape.heads;
  const int K = static_cast<int>(shape.K);
  const uint32_t warp = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const int64_t qk_head = warp % static_cast<uint32_t>(shape.heads);
  const int64_t n = warp / static_cast<uint32_t>(shape.heads);
  if (n >= p.sequences.count) return;
  const Work work = work_of(p, n, flag);
  if (work.slot.slot < 0) return;
  const Map map;
  for (int64_t t = 0; t < work.s.length; ++t) {
    float k[kPerLane];
    map.load_row(p.k.at(work.s, t, qk_head), p.k.dtype, K, k);
    if (p.use_qk_l2norm) Map::l2norm(k, p.l2norm_eps);
    if (map.group == 0) map.store_row(record_k(p, work.slot.slot, t, qk_head), p.record_k.dtype, K, k);
    for (int64_t h = map.lane; h < group; h += kWarp) {
      const int64_t head = qk_head * group + h;
      store_element(record_g(p, work.slot.slot, t, head), p.record_g.dtype,
                    load_gate(p.gates, work.s, t, head).g);
    }
  }
}

Status replace_records(const ReplayProblem& problem, const Stream& stream) {
  const int64_t warps = problem.shape.sequences * problem.shape.heads;
  const Launch how{(warps + 3) / 4, 4 * kWarp, 0, stream.stream};
  const Flag flag{stream.out_of_range};
  switch (elements_per_lane(problem.shape.K)) {
    case 8:
      return launch(&record_kernel<8>, how, problem, flag);
    case 16:
      return launch(&record_kernel<16>, how, problem, flag);
    default:
      return launch(&record_kernel<32>, how, problem, flag);
  }
}

}  // namespace

Status replay(const ReplayProblem& problem, const Device& device, const Stream& stream) {
  const Shape& shape = problem.shape;
  Status status =
      with_tile(problem.state.dtype, shape.layout, shape.K, [&](auto element, auto vk, auto size) {
        constexpr int kColumns = columns_per_warp(size);
        const int64_t parts = (shape.V + kColumns - 1) / kColumns;
        const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
        const int64_t warps = sequences * shape.value_heads * parts;
        const int per_block = warps_per_block(warps, device.multiprocessors);
        return launch(
            &replay_kernel<decltype(element), decltype(vk)::value, decltype(size)::value>,
            {(warps + per_block - 1) / per_block, per_block * kWarp, 0, stream.stream}, problem,
            Flag{stream.out_of_range}, static_cast<int>(parts));
      });
  if (!status.ok() || !problem.verifies()) return status;
  return replace_records(problem, stream);
}

}  // namespace gdn::cuda
