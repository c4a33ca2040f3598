// The usual decode: what recurrent.cu does, with nothing in it that the usual call does not need.
// Half of the parameters and half of the instructions: the decode of one sequence takes its time
// for them, and with 16-bit states many sequences do too.
#include "cuda/recurrent_usual.h"

#include <optional>
#include <type_traits>

#include "cuda/dependent.cuh"
#include "cuda/launch.h"
#include "cuda/resolve.cuh"
#include "cuda/state_tile.cuh"
#include "cuda/token_rows.cuh"

namespace gdn::cuda {
namespace {

// int32 or int64 [N].
struct NarrowIndex {
  const std::byte* data = nullptr;
  int32_t stride = 0;
  DType dtype = DType::kI32;

  NarrowIndex() = default;
  explicit NarrowIndex(const IndexTensor& x)
      : data(x.data), stride(static_cast<int32_t>(x.row_stride)), dtype(x.dtype) {}
  static bool fits(const IndexTensor& x) {
    return x.row_stride <= INT32_MAX && x.row_stride >= INT32_MIN;
  }
  __device__ __forceinline__ IndexTensor wide() const { return {data, dtype, stride, 0, 0}; }
};

// Of a DeltaRuleProblem what the usual call needs. The rules of slots and sequences are problem.h's
// and resolve.cuh's: they see a StateSlots and a SequenceTable whose other fields are known when
// the kernel is compiled.
struct UsualCall : NarrowTokens {
  const std::byte* initial_state;
  std::byte* final_state;
  int64_t initial_stride, final_stride;  // of slots, in bytes
  int64_t initial_slots, final_slots;
  NarrowIndex initial_index, final_index, cu_seqlens;
  std::optional<int64_t> null_slot;
  int32_t count, row_length, V;
  float scale, l2norm_eps;
  bool use_qk_l2norm;
  bool fetches_ahead;  // fetch_ahead() is of use
  Flag flag;
  BlockGrid grid;
  GateInputs gates;

  explicit UsualCall(const DeltaRuleProblem& p)
      : NarrowTokens(p),
        initial_state(p.initial_state.data),
        final_state(p.final_state.data),
        initial_stride(p.initial_state.slot_stride * size_of(p.initial_state.dtype)),
        final_stride(p.final_state.slot_stride * size_of(p.final_state.dtype)),
        initial_slots(p.initial_state.slots),
        final_slots(p.final_state.slots),
        initial_index(p.initial_state_indices),
        final_index(p.final_state_indices),
        cu_seqlens(p.sequences.cu_seqlens),
        null_slot(p.null_slot),
        count(static_cast<int32_t>(p.sequences.count)),
        row_length(static_cast<int32_t>(p.sequences.row_length)),
        V(static_cast<int32_t>(p.shape.V)),
        scale(p.scale),
        l2norm_eps(p.l2norm_eps),
        use_qk_l2norm(p.use_qk_l2norm),
        fetches_ahead(false),
        flag{nullptr},
        gates(p.gates) {}

  __device__ __forceinline__ SequenceTable sequences() const {
    return {count, row_length, cu_seqlens.wide()};
  }
  __device__ __forceinline__ StateSlots slots() const {
    StateSlots slots;
    slots.initial_state_indices = initial_index.wide();
    slots.final_state_indices = final_index.wide();
    slots.null_slot = null_slot;
    return slots;
  }
};

// While the kernel before may still run: hints, so that what is loaded after it has ended comes
// from the second-level cache. Nothing is read here but the index, past the first-level cache,
// which may be written yet: it only says which state to fetch, and is read again.
template <class Tile, class T>
__device__ __forceinline__ void fetch_ahead(const UsualCall& p, const BlockPlace& place,
                                            const Tile& tile, int64_t head_bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const auto prefetch_L2 = [](const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); };
  const int64_t n = place.n;
  int64_t slot = n;
  if (p.initial_index.data != nullptr) {
    const std::byte* at = p.initial_index.wide().place(n);
    int32_t low;
    asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(low) : "l"(at));
    slot = low;
  }
  const int lane = tile.lane;
  if (p.cu_seqlens.data == nullptr && p.row_length > 0) {
    const TokenPlaces token = p.places({n, 0, 0}, 0, place.head, place.qk_head);
    const std::byte* row = lane < 4 ? token.k : lane < 8 ? token.q : token.v;
    const DType dtype = lane < 4 ? p.k.dtype : lane < 8 ? p.q.dtype : p.v.dtype;
    const int at = lane % 4 * 128;
    const int bytes = (lane < 8 ? Tile::kWholeK : p.V) * static_cast<int>(size_of(dtype));
    if (lane < 12 && at < bytes) prefetch_L2(row + at);
    if (lane == 12) prefetch_L2(token.decay);
    if (lane == 13 && p.strength.data != nullptr) prefetch_L2(token.strength);
  }
  if (lane == 14 && p.final_index.data != nullptr) prefetch_L2(p.final_index.wide().place(n));
  if (lane == 15 && p.gates.A_log.given()) prefetch_L2(p.gates.A_log.at(place.head));
  if (lane == 16 && p.gates.dt_bias.given()) prefetch_L2(p.gates.dt_bias.at(place.head));
  if (slot < 0 || slot >= p.initial_slots) return;
  const std::byte* head = p.initial_state + slot * p.initial_stride + head_bytes;
  tile.each_line(reinterpret_cast<const T*>(head), prefetch_L2);
#endif
}

}  // namespace

// How a kernel is cut. kFew: few blocks in all, so that what a block costs to start counts. Not in
// the anonymous namespace: nvcc warns there of members that an instance does not use.
template <class T, bool kVK, int kPerLane, bool kFew>
struct UsualCut {
  // 4 KB of state a warp, 8 KB where they are few.
  static constexpr bool kHalf = kVK && sizeof(T) == 4 && kPerLane == 16 && !kFew;
  using Tile = StateTile<T, kVK, kPerLane, true, kHalf ? 2 : 4>;
  // Of a block, at most. In layout [K,V] its warps read a row's columns side by side.
  static constexpr int kWarps = kVK ? 1 : 4;
  // Blocks of a multiprocessor, for the number of registers: as many as spill none.
  static constexpr bool kAll = sizeof(T) == 4 && kPerLane == 16 && !kHalf;  // 64 of them loaded
  static constexpr int kBlocksOfOne = kVK ? (kHalf ? 20 : kAll ? 12 : 16) : 3;
  static constexpr int kBlocksOfMany = kVK ? (kHalf ? 16 : kAll ? 10 : 12) : 3;
  static constexpr int blocks(bool one_token) { return one_token ? kBlocksOfOne : kBlocksOfMany; }
};

namespace {

// The kernel of one token a sequence, in rows of a batch, has no loop over tokens in it.
template <class T, bool kVK, int kPerLane, bool kFew, RowsOf kRows, bool kOneToken>
__global__ void __launch_bounds__(UsualCut<T, kVK, kPerLane, kFew>::kWarps* kWarp,
                                  UsualCut<T, kVK, kPerLane, kFew>::blocks(kOneToken))
    usual_kernel(const __grid_constant__ UsualCall p) {
  using Tile = typename UsualCut<T, kVK, kPerLane, kFew>::Tile;
  const BlockPlace place(p.grid);
  const int64_t n = place.n, head = place.head;
  Tile tile(Tile::kWholeK, p.V, static_cast<int>(place.part) * Tile::kWarpColumns);
  const int64_t head_bytes =
      int64_t{place.head} * (p.V * Tile::kWholeK * static_cast<int>(sizeof(T)));
  if (p.fetches_ahead && n < p.count) fetch_ahead<Tile, T>(p, place, tile, head_bytes);
  wait_for_kernel_before();
  if (!kOneToken && n >= p.count) {
    return tile.zero_columns(p.out, tail_of(p.sequences()), head);
  }
  const StateSlots slots = p.slots();
  const Sequence s = kOneToken ? Sequence{n, 0, 1} : sequence_of(p.sequences(), n, p.flag);
  const auto places = [&](int64_t t) { return p.places(s, t, place.head, place.qk_head); };
  // The indices of the states, then the first token, then the state.
  const IndexBits read = read_index_of(slots, n, p.flag), written = written_index_of(slots, n);
  TokenRows<Tile, kPerLane, true, kRows> token;
  if (s.length > 0) token.begin(tile, p, places(0), head);
  const StateSlots::Read from = read_of(slots, n, read, p.initial_slots, p.flag);
  if (from.skip) return tile.zero_columns(p.out, s, head);
  typename Tile::Loaded loaded;
  tile.begin_load(p.initial_state + from.slot * p.initial_stride + head_bytes, loaded);
  if (s.length > 0) token.finish(p);
  tile.unpack(loaded);
  const auto step = [&](int64_t t) {
    float v_new[Tile::kColumns], out[Tile::kColumns];
    tile.step(token.k, token.q, token.decay, token.beta, p.scale, token.v, v_new, out);
    tile.store_columns(p.out.at(s, t, head), p.out.dtype, out);
  };
  if (s.length > 0) step(0);
  if constexpr (!kOneToken) {
    for (int64_t t = 1; t < s.length; ++t) {
      token.load(tile, p, places(t), head);
      // On its way to the cache: in registers it would cost warps.
      if (t + 1 < s.length) token.prefetch(tile, p, places(t + 1));
      step(t);
    }
  }
  const int64_t to = written_slot_of(slots, written, p.final_slots, p.flag);
  if (to >= 0) tile.store(p.final_state + to * p.final_stride + head_bytes);
}

// Calls body(T(), bool_constant<kVK>, integral_constant<int, kPerLane>) for K of 64 or 128.
template <class Body>
auto with_usual_tile(DType state, const Shape& shape, const Body& body) {
  const auto by_size = [&](auto element, auto vk) {
    return shape.K == 64 ? body(element, vk, std::integral_constant<int, 8>())
                         : body(element, vk, std::integral_constant<int, 16>());
  };
  return with_element(state, [&](auto element) {
    return shape.layout == StateLayout::kVK ? by_size(element, std::true_type())
                                            : by_size(element, std::false_type());
  });
}

}  // namespace

bool is_usual(const DeltaRuleProblem& p) {
  const auto slots = [](const SlotTensor& x) { return x.given() && slots_aligned(x, 16); };
  const bool one_slot = p.has_initial_state == nullptr &&
                        (p.initial_state_indices.columns == 0 || !p.num_accepted.given());
  const bool narrow = NarrowTokens::fit(p) && NarrowIndex::fits(p.initial_state_indices) &&
                      NarrowIndex::fits(p.final_state_indices) &&
                      NarrowIndex::fits(p.sequences.cu_seqlens);
  if ((p.shape.K != 64 && p.shape.K != 128) || !rows_of_fours(p.q) || !rows_of_fours(p.k) ||
      !rows_of_fours(p.v) || !slots(p.initial_state) || !slots(p.final_state) ||
      p.initial_state.dtype != p.final_state.dtype || p.stores_every_state() || !one_slot ||
      !narrow) {
    return false;
  }
  return with_usual_tile(p.initial_state.dtype, p.shape, [&](auto element, auto vk, auto per_lane) {
    using Cut = UsualCut<decltype(element), decltype(vk)::value, per_lane, true>;
    return p.shape.V % (Cut::kWarps * Cut::Tile::kWarpColumns) == 0;
  });
}

namespace {

template <class T, bool kVK, int kPerLane, bool kFew>
Status run(UsualCall& call, const Shape& shape, int64_t sequences, const Device& device,
           cudaStream_t stream) {
  using Cut = UsualCut<T, kVK, kPerLane, kFew>;
  const bool early = starts_early(device);
  call.grid =
      BlockGrid::of(shape, sequences, Cut::Tile::kWarpColumns, device.multiprocessors, Cut::kWarps);
  // More warps would fetch ahead what the kernel before still has the memory's time for.
  call.fetches_ahead =
      early && call.grid.blocks * call.grid.warps <= int64_t{2} * device.multiprocessors;
  const Launch how{call.grid.blocks, call.grid.warps * kWarp, 0, stream, early};
  const bool one = call.row_length == 1 && call.cu_seqlens.data == nullptr;
  if (shape.dtype == DType::kF32) {
    return launch(&usual_kernel<T, kVK, kPerLane, kFew, RowsOf::kF32, false>, how, call);
  }
  return one ? launch(&usual_kernel<T, kVK, kPerLane, kFew, RowsOf::k16Bit, true>, how, call)
             : launch(&usual_kernel<T, kVK, kPerLane, kFew, RowsOf::k16Bit, false>, how, call);
}

}  // namespace

Status recurrent_usual(const DeltaRuleProblem& problem, const Device& device,
                       const Stream& stream) {
  const Shape& shape = problem.shape;
  // One sequence more for the rows past the last one.
  const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
  UsualCall call(problem);
  call.flag.out_of_range = stream.out_of_range;
  return with_usual_tile(
      problem.initial_state.dtype, shape, [&](auto element, auto vk, auto per_lane) {
        using T = decltype(element);
        constexpr bool kVK = decltype(vk)::value;
        // Where the two are cut differently.
        if constexpr (UsualCut<T, kVK, per_lane, false>::kHalf) {
          constexpr int kColumns = UsualCut<T, kVK, per_lane, true>::Tile::kWarpColumns;
          const int64_t warps = sequences * shape.value_heads * (shape.V / kColumns);
          if (warps > int64_t{8} * device.multiprocessors) {
            return run<T, kVK, per_lane, false>(call, shape, sequences, device, stream.stream);
          }
        }
        return run<T, kVK, per_lane, true>(call, shape, sequences, device, stream.stream);
      });
}

}  // namespace gdn::cuda
