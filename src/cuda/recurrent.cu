// Decode: one launch, a warp for some V columns of a (sequence, value head). The state goes from
// its slot to registers, all loads before the first sum, over the tokens, and to its slot.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/resolve.cuh"
#include "cuda/state_tile.cuh"

namespace gdn::cuda {
namespace {

template <class T, bool kVK, int kPerLane>
__global__ void __launch_bounds__(128, resident_blocks(kPerLane))
    recurrent_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag, int parts) {
  using Tile = StateTile<T, kVK, kPerLane>;
  const Shape& shape = p.shape;
  const WarpPlace place(static_cast<uint32_t>(shape.value_heads), static_cast<uint32_t>(parts));
  const int K = static_cast<int>(shape.K), V = static_cast<int>(shape.V);
  const int64_t n = place.n, head = place.head;
  Tile tile(K, V, static_cast<int>(place.part) * columns_per_warp(kPerLane));
  if (n >= p.sequences.count) {
    if (n == p.sequences.count) tile.zero_columns(p.out, tail_of(p.sequences), head);
    return;
  }
  const Sequence s = sequence_of(p.sequences, n, flag);
  const InitialState initial = initial_of(p, n, flag);
  if (initial.skip) return tile.zero_columns(p.out, s, head);
  const int64_t head_elements = head * V * K;
  tile.load(initial.data == nullptr
                ? nullptr
                : initial.data + head_elements * static_cast<int64_t>(sizeof(T)));

  const int64_t qk_head = head / (shape.value_heads / shape.heads);
  const bool every = p.stores_every_state();
  for (int64_t t = 0; t < s.length; ++t) {
    float k[kPerLane], q[kPerLane], v[Tile::kColumns], v_new[Tile::kColumns], out[Tile::kColumns];
    tile.map.load_row(p.k.at(s, t, qk_head), p.k.dtype, K, k);
    tile.map.load_row(p.q.at(s, t, qk_head), p.q.dtype, K, q);
    tile.load_columns(p.v.at(s, t, head), p.v.dtype, v);
    const Gate gate = load_gate(p.gates, s, t, head);
    if (p.use_qk_l2norm) {
      Tile::Map::l2norm(k, p.l2norm_eps);
      Tile::Map::l2norm(q, p.l2norm_eps);
    }
    tile.step(k, q, Tile::Map::dot(k, q), gate, p.scale, v, v_new, out);
    tile.store_columns(p.out.at(s, t, head), p.out.dtype, out);
    if (!every) continue;
    std::byte* to = final_slot_of(p, n, t, flag);
    if (to != nullptr) {
      tile.store(to + head_elements * size_of(p.final_state.dtype), p.final_state.dtype);
    }
  }
  if (every) return;
  std::byte* to = final_slot_of(p, n, 0, flag);
  if (to != nullptr) {
    tile.store(to + head_elements * size_of(p.final_state.dtype), p.final_state.dtype);
  }
}

}  // namespace

Status recurrent(const DeltaRuleProblem& problem, const Device& device, const Stream& stream) {
  const Shape& shape = problem.shape;
  const DType state =
      problem.initial_state.given() ? problem.initial_state.dtype : shape.state_dtype;
  return with_tile(state, shape.layout, shape.K, [&](auto element, auto vk, auto per_lane) {
    constexpr int kColumns = columns_per_warp(per_lane);
    const int64_t parts = (shape.V + kColumns - 1) / kColumns;
    // One sequence more for the rows past the last one.
    const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
    const int64_t warps = sequences * shape.value_heads * parts;
    const int per_block = warps_per_block(warps, device.multiprocessors);
    return launch(&recurrent_kernel<decltype(element), decltype(vk)::value,
                                    decltype(per_lane)::value>,
                  {(warps + per_block - 1) / per_block, per_block * kWarp, 0, stream.stream},
                  problem, Flag{stream.out_of_range}, static_cast<int>(parts));
  });
}

}  // namespace gdn::cuda
