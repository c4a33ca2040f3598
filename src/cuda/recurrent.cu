// Decode: one launch, a warp for some V columns of a (sequence, value head). The loads of the
// first tokens and of the state begin before anything waits for one; the block stages the tokens in
// shared memory; then the state goes through them in registers, and to its slot.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/resolve.cuh"
#include "cuda/state_tile.cuh"
#include "cuda/token_stage.cuh"

namespace gdn::cuda {
namespace {

template <class T, bool kVK, int kPerLane>
__global__ void __launch_bounds__(128, resident_blocks(kPerLane))
    recurrent_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag,
                     int blocks_per_head) {
  using Tile = StateTile<T, kVK, kPerLane>;
  using Stage = TokenStage<kPerLane * kLanesPerColumn>;
  __shared__ Stage stage;
  const Shape& shape = p.shape;
  const BlockPlace place(static_cast<uint32_t>(shape.value_heads),
                         static_cast<uint32_t>(blocks_per_head));
  const int K = static_cast<int>(shape.K), V = static_cast<int>(shape.V);
  const int64_t n = place.n, head = place.head;
  Tile tile(K, V, static_cast<int>(place.part) * columns_per_warp(kPerLane));
  const Columns columns =
      BlockPlace::columns(static_cast<uint32_t>(blocks_per_head), columns_per_warp(kPerLane), V);
  if (n >= p.sequences.count) {
    tile.zero_columns(p.out, tail_of(p.sequences), head);
    return;
  }
  const Sequence s = sequence_of(p.sequences, n, flag);
  const auto staged = [&](int64_t t0) {
    const int64_t left = s.length - t0;
    return static_cast<int>(left < kStagedTokens ? left : kStagedTokens);
  };
  // The warp's first items of the tokens, then the state, whose place has to be read first.
  typename Stage::RawItems items;
  Stage::begin_first(p, s, staged(0), head, columns, items);
  const InitialState initial = initial_of(p, n, flag);
  if (initial.skip) return tile.zero_columns(p.out, s, head);
  const int64_t head_elements = head * V * K;
  typename Tile::Loaded loaded;
  tile.begin_load(initial.data == nullptr
                      ? nullptr
                      : initial.data + head_elements * static_cast<int64_t>(sizeof(T)),
                  loaded);
  const bool every = p.stores_every_state();
  std::byte* last = every ? nullptr : final_slot_of(p, n, 0, flag);
  stage.finish_first(p, s, staged(0), head, columns, items);
  const auto store = [&](std::byte* to) {
    if (to == nullptr) return;
    tile.store(to + head_elements * size_of(p.final_state.dtype), p.final_state.dtype);
  };
  __syncthreads();
  tile.unpack(loaded);
  for (int64_t t0 = 0; t0 < s.length; t0 += kStagedTokens) {
    const int count = staged(t0);
    if (t0 > 0) {
      __syncthreads();  // all warps are done with the tokens before
      stage.fill(p, s, t0, Stage::own(), count, head, columns);
      __syncthreads();
    }
    for (int i = 0; i < count; ++i) {
      float k[kPerLane], q[kPerLane], v[Tile::kColumns], v_new[Tile::kColumns], out[Tile::kColumns];
      tile.load_row(stage.k[i], k);
      tile.load_row(stage.q[i], q);
      tile.load_columns(stage.v[i], v);
      tile.step(k, q, stage.decay[i], stage.beta[i], p.scale, v, v_new, out);
      tile.store_columns(p.out.at(s, t0 + i, head), p.out.dtype, out);
      if (every) store(final_slot_of(p, n, t0 + i, flag));
    }
  }
  store(last);
}

}  // namespace

Status recurrent(const DeltaRuleProblem& problem, const Device& device, const Stream& stream) {
  const Shape& shape = problem.shape;
  const DType state =
      problem.initial_state.given() ? problem.initial_state.dtype : shape.state_dtype;
  return with_tile(state, shape.layout, shape.K, [&](auto element, auto vk, auto per_lane) {
    constexpr int kColumns = columns_per_warp(per_lane);
    // One sequence more for the rows past the last one.
    const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
    const int64_t heads = sequences * shape.value_heads;
    const BlockGrid grid =
        BlockGrid::of(heads, (shape.V + kColumns - 1) / kColumns, device.multiprocessors);
    return launch(
        &recurrent_kernel<decltype(element), decltype(vk)::value, decltype(per_lane)::value>,
        {heads * grid.blocks_per_head, grid.warps * kWarp, 0, stream.stream}, problem,
        Flag{stream.out_of_range}, grid.blocks_per_head);
  });
}

}  // namespace gdn::cuda
