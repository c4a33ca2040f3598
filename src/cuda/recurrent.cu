// The recurrent operator: one launch, a warp for some V columns of a (sequence, value head). The
// loads of the first token and of the state begin before anything waits for one; then the state
// goes through the tokens in registers, and to its slot. No warp waits for another. The usual
// decode has a kernel of its own (recurrent_usual.cu), which computes the same bits.
#include "cuda/dependent.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/recurrent_usual.h"
#include "cuda/resolve.cuh"
#include "cuda/state_tile.cuh"
#include "cuda/token_rows.cuh"

namespace gdn::cuda {
namespace {

template <class T, bool kVK, int kPerLane>
__global__ void __launch_bounds__(128, kPerLane == 32 ? 2 : 3)
    recurrent_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag,
                     const BlockGrid grid) {
  using Tile = StateTile<T, kVK, kPerLane>;
  const BlockPlace place(grid);
  const int K = static_cast<int>(p.shape.K), V = static_cast<int>(p.shape.V);
  const int64_t n = place.n, head = place.head;
  Tile tile(K, V, static_cast<int>(place.part) * Tile::kWarpColumns);
  const int64_t head_elements = head * V * K;
  wait_for_kernel_before();
  if (n >= p.sequences.count) {
    tile.zero_columns(p.out, tail_of(p.sequences), head);
    return;
  }
  const Sequence s = sequence_of(p.sequences, n, flag);
  const auto places = [&](int64_t t) { return places_of(p, s, t, head, place.qk_head); };
  // The index of the state, for which its loads wait, then the first token, then the state.
  const IndexBits index = read_index_of(p, n, flag);
  TokenRows<Tile, kPerLane, false> token;
  if (s.length > 0) token.begin(tile, p, places(0), head);
  const InitialState initial = initial_of(p, n, index, flag);
  if (initial.skip) return tile.zero_columns(p.out, s, head);
  typename Tile::Loaded loaded;
  tile.begin_load(initial.data == nullptr
                      ? nullptr
                      : initial.data + head_elements * static_cast<int64_t>(sizeof(T)),
                  loaded);
  const bool every = p.stores_every_state();
  std::byte* last = every ? nullptr : final_slot_of(p, n, 0, flag);
  const auto store = [&](std::byte* to) {
    if (to == nullptr) return;
    tile.store(to + head_elements * size_of(p.final_state.dtype), p.final_state.dtype);
  };
  if (s.length > 0) token.finish(p);
  tile.unpack(loaded);
  for (int64_t t = 0; t < s.length; ++t) {
    if (t > 0) {
      token.begin(tile, p, places(t), head);
      token.finish(p);
    }
    // On its way to the cache: in registers it would cost a block a multiprocessor.
    if (t + 1 < s.length) token.prefetch(tile, p, places(t + 1));
    float v_new[Tile::kColumns], out[Tile::kColumns];
    tile.step(token.k, token.q, token.decay, token.beta, p.scale, token.v, v_new, out);
    tile.store_columns(places(t).out, p.out.dtype, out);
    if (every) store(final_slot_of(p, n, t, flag));
  }
  store(last);
}

}  // namespace

Status recurrent(const DeltaRuleProblem& problem, const Device& device, const Stream& stream) {
  if (is_usual(problem)) return recurrent_usual(problem, device, stream);
  const Shape& shape = problem.shape;
  const DType state =
      problem.initial_state.given() ? problem.initial_state.dtype : shape.state_dtype;
  // One sequence more for the rows past the last one.
  const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
  return with_tile(state, shape.layout, shape.K, [&](auto element, auto vk, auto per_lane) {
    const BlockGrid grid =
        BlockGrid::of(shape, sequences, columns_per_warp(per_lane), device.multiprocessors);
    return launch(
        &recurrent_kernel<decltype(element), decltype(vk)::value, decltype(per_lane)::value>,
        {grid.blocks, grid.warps * kWarp, 0, stream.stream, starts_early(device)}, problem,
        Flag{stream.out_of_range}, grid);
  });
}

}  // namespace gdn::cuda
