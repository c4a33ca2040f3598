// Replay: the recurrent kernel's tile folds in the accepted records, stores the state, and verifies
// the tokens on what it still has in its registers. All value heads and columns of a q/k head read
// the records' keys and decays, so that these are replaced by a second, small kernel after it;
// v_new belongs to the lanes of a column alone.
#include "cuda/dependent.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/resolve.cuh"
#include "cuda/state_tile.cuh"
#include "cuda/token_stage.cuh"

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

// Record t of a slot, staged as a token is.
template <class Stage>
__device__ __forceinline__ void begin_record(const ReplayProblem& p, int64_t slot, int64_t t,
                                             int64_t head, int64_t qk_head, const Columns& columns,
                                             typename Stage::Raw& raw) {
  Stage::begin_row(record_k(p, slot, t, qk_head), p.record_k.dtype, static_cast<int>(p.shape.K),
                   raw.row);
  Stage::begin_values(record_v(p, slot, t, head), p.record_v.dtype, columns, raw.v);
  raw.gate.decay = load_bits(record_g(p, slot, t, head), p.record_g.dtype);
}
template <class Stage>
__device__ __forceinline__ void finish_record(Stage& stage, const ReplayProblem& p,
                                              const typename Stage::Raw& raw, int i,
                                              const Columns& columns) {
  float k[Stage::kPerLane];
  Stage::finish_row(raw.row, p.record_k.dtype, k);
  stage.put_values(i, raw.v, p.record_v.dtype, columns);
  Stage::put_row(stage.k[i], k);
  if (threadIdx.x % kWarp == 0) {
    stage.decay[i] = decay_of(from_bits(raw.gate.decay, p.record_g.dtype));
  }
}
template <class Stage>
__device__ __forceinline__ void fill_records(Stage& stage, const ReplayProblem& p, int64_t slot,
                                             int64_t t0, int first, int count, int64_t head,
                                             int64_t qk_head, const Columns& columns) {
  for (int i = first; i < count; i += Stage::warps()) {
    typename Stage::Raw raw;
    begin_record<Stage>(p, slot, t0 + i, head, qk_head, columns, raw);
    finish_record(stage, p, raw, i, columns);
  }
}

// What the verification of staged tokens takes of pairs of them: (q_i . k_j) for j <= i in
// [i][j], (k_j . k_i) for i < j likewise, times the decays after the earlier one up to the later.
using Pairs = float[kStagedTokens][kStagedTokens];

template <class Stage>
__device__ __forceinline__ void put_pairs(const Stage& tokens, int count, Pairs& pairs) {
  for (int pair = Stage::own(); pair < kStagedTokens * kStagedTokens; pair += Stage::warps()) {
    const int i = pair / kStagedTokens, j = pair % kStagedTokens;
    const int earlier = i < j ? i : j, later = i < j ? j : i;
    if (later >= count) continue;
    float x = Stage::dot_rows(i < j ? tokens.k[j] : tokens.q[i], tokens.k[earlier]);
    for (int t = earlier + 1; t <= later; ++t) x = __fmul_rn(x, tokens.decay[t]);
    if (threadIdx.x % kWarp == 0) pairs[i][j] = x;
  }
}

// The staged tokens t0 .. from the state before them, which stays as it is. With D_i the product of
// the decays up to token i, and P the pairs,
//   v_new_i = beta_i (v_i - D_i S k_i - sum over j < i of P_ji v_new_j)
//   out_i   = scale (D_i S q_i + sum over j <= i of P_ij v_new_j),
// half the work of a state that goes through the tokens. With `goes_on` the state does, at the end.
template <class Tile, class Stage>
__device__ __forceinline__ void verify(Tile& tile, const Stage& tokens, const Pairs& pairs,
                                       const ReplayProblem& p, const Work& work, int64_t t0,
                                       int count, bool goes_on, int64_t head) {
  constexpr int kPerLane = Tile::kElements;
  const int column = tile.v0 + tile.own_column();
  const bool exists = column < tile.V;
  // Their first rows; the others by the strides.
  std::byte* out_row = p.out.at(work.s, t0, head);
  std::byte* record_row = record_v(p, work.slot.slot, t0, head);
  const int64_t out_stride = p.out.token_stride * size_of(p.out.dtype);
  const int64_t record_stride = p.shape.value_heads * p.shape.V * size_of(p.record_v.dtype);
  float v_new[kStagedTokens] = {}, all = 1;
#pragma unroll
  for (int i = 0; i < kStagedTokens; ++i) {
    if (i >= count) continue;
    float k[kPerLane], q[kPerLane], with_k, with_q;
    tile.load_row(tokens.k[i], k);
    tile.load_row(tokens.q[i], q);
    tile.products(k, q, &with_k, &with_q);
    all = __fmul_rn(all, tokens.decay[i]);
    float rest = __fmaf_rn(-all, with_k, exists ? tokens.v[i][column] : 0.0f);
    float out = __fmul_rn(all, with_q);
#pragma unroll
    for (int j = 0; j < i; ++j) {
      rest = __fmaf_rn(-pairs[j][i], v_new[j], rest);
      out = __fmaf_rn(pairs[i][j], v_new[j], out);
    }
    v_new[i] = __fmul_rn(tokens.beta[i], rest);
    out = __fmul_rn(p.scale, __fmaf_rn(pairs[i][i], v_new[i], out));
    if (!exists) continue;
    if (tile.stores_first()) {
      store_element(out_row + i * out_stride, p.out.dtype, out, column);
    } else if (tile.stores_second()) {
      store_element(record_row + i * record_stride, p.record_v.dtype, v_new[i], column);
    }
  }
  if (!goes_on) return;
  tile.scale(all);
  float after = 1;
#pragma unroll
  for (int i = kStagedTokens - 1; i >= 0; --i) {
    if (i >= count) continue;
    float k[kPerLane], columns[Tile::kColumns];
    tile.load_row(tokens.k[i], k);
    tile.spread(__fmul_rn(after, v_new[i]), columns);
    tile.add(columns, k);
    after = __fmul_rn(after, tokens.decay[i]);
  }
}

// Warps of a block, at most: what they stage they share, and wait for. With 16-bit states there is
// half the memory's time to stage in.
template <class T>
constexpr int kMostWarps = sizeof(T) == 2 ? 8 : 4;

// kPlain: is_plain() holds.
template <class T, bool kVK, int kPerLane, bool kPlain>
__global__ void __launch_bounds__(kMostWarps<T>* kWarp, (kPerLane == 32 ? 8 : 16) / kMostWarps<T>)
    replay_kernel(const __grid_constant__ ReplayProblem p, const Flag flag, const BlockGrid grid) {
  using Tile = StateTile<T, kVK, kPerLane, kPlain>;
  // The records and the tokens are staged in turn, so that each needs one wait alone.
  using Stage =
      TokenStage<kPerLane * kLanesPerColumn, kPlain, kMostWarps<T> * columns_per_warp(kPerLane)>;
  __shared__ Stage records, tokens;
  __shared__ Pairs pairs;
  const Shape& shape = p.shape;
  const BlockPlace place(grid);
  const int K = static_cast<int>(shape.K), V = static_cast<int>(shape.V);
  const int64_t n = place.n, head = place.head, qk_head = place.qk_head;
  Tile tile(K, V, static_cast<int>(place.part) * columns_per_warp(kPerLane));
  const Columns columns = place.columns(columns_per_warp(kPerLane), V);
  wait_for_kernel_before();
  if (n >= p.sequences.count) {
    if (p.verifies()) tile.zero_columns(p.out, tail_of(p.sequences), head);
    return;
  }
  const Work work = work_of(p, n, flag);
  if (work.slot.slot < 0) {
    if (p.verifies()) tile.zero_columns(p.out, work.s, head);
    return;
  }
  const int64_t slot = work.slot.slot, accepted = work.slot.accepted;
  const auto staged = [](int64_t left) {
    return static_cast<int>(left < kStagedTokens ? left : kStagedTokens);
  };
  const int own = Stage::own();
  const int first_records = staged(accepted), first_tokens = staged(work.s.length);
  std::byte* state = p.state.at(slot, head * V * K);
  typename Tile::Loaded loaded;
  tile.begin_load(state, loaded);
  typename Stage::Raw record;
  typename Stage::RawItems items;
  if (own < first_records) begin_record<Stage>(p, slot, own, head, qk_head, columns, record);
  if (p.verifies()) Stage::begin_first(p, work.s, first_tokens, head, qk_head, columns, items);
  if (own < first_records) finish_record(records, p, record, own, columns);
  fill_records(records, p, slot, 0, own + Stage::warps(), first_records, head, qk_head, columns);
  if (p.verifies()) tokens.finish_first(p, work.s, first_tokens, head, qk_head, columns, items);
  __syncthreads();
  if (p.verifies()) put_pairs(tokens, first_tokens, pairs);
  tile.unpack(loaded);
  for (int64_t t0 = 0; t0 < accepted; t0 += kStagedTokens) {
    const int count = staged(accepted - t0);
    if (t0 > 0) {
      __syncthreads();
      fill_records(records, p, slot, t0, own, count, head, qk_head, columns);
      __syncthreads();
    }
    // The decays of all of them on the state, of those after it on a record: one product fewer an
    // element and record.
    float all = 1;
    for (int i = 0; i < count; ++i) all = __fmul_rn(all, records.decay[i]);
    tile.scale(all);
    float after = 1;
    for (int i = count - 1; i >= 0; --i) {
      float k[kPerLane], v_new[Tile::kColumns];
      tile.load_row(records.k[i], k);
      tile.load_columns(records.v[i], v_new);
#pragma unroll
      for (int c = 0; c < Tile::kColumns; ++c) v_new[c] = __fmul_rn(after, v_new[c]);
      tile.add(v_new, k);
      after = __fmul_rn(after, records.decay[i]);
    }
  }
  if (accepted > 0) {
    if constexpr (kPlain) {
      tile.store(state);
    } else {
      tile.store(state, p.state.dtype);
    }
  }
  if (!p.verifies()) return;
  __syncthreads();  // all warps have staged the old v_new, and the pairs
  for (int64_t t0 = 0; t0 < work.s.length; t0 += kStagedTokens) {
    const int count = staged(work.s.length - t0);
    if (t0 > 0) {
      __syncthreads();
      tokens.fill(p, work.s, t0, own, count, head, qk_head, columns);
      __syncthreads();
      put_pairs(tokens, count, pairs);
      __syncthreads();
    }
    verify(tile, tokens, pairs, p, work, t0, count, t0 + count < work.s.length, head);
  }
}

// The keys and decays of the new records: a warp for a token and q/k head of a sequence. All that
// it reads was there before the kernel before it (which waited for what wrote it), so that it reads
// before its own wait; what it writes that kernel reads.
template <int kK>
__global__ void __launch_bounds__(128)
    record_kernel(const __grid_constant__ ReplayProblem p, const Flag flag, const Divisor heads,
                  const Divisor tokens) {
  using Stage = TokenStage<kK>;
  const int K = static_cast<int>(p.shape.K);
  const int group = static_cast<int>(p.shape.value_heads / p.shape.heads);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const uint32_t warp = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const uint32_t row = heads.divide(warp), n = tokens.divide(row);
  const int64_t qk_head = warp - row * heads.value, t = row - n * tokens.value;
  const Work work = n < p.sequences.count ? work_of(p, n, flag) : Work{};
  const bool exists = work.slot.slot >= 0 && t < work.s.length;
  float k[Stage::kPerLane];
  float g = 0;
  const int64_t head = qk_head * group + lane;
  if (exists) {
    typename Stage::RawRow raw;
    Stage::begin_row(p.k.at(work.s, t, qk_head), p.k.dtype, K, raw);
    if (lane < group) g = load_gate(p.gates, work.s, t, head).g;
    Stage::finish_row(raw, p.k.dtype, k);
    if (p.use_qk_l2norm) Stage::l2norm(k, p.l2norm_eps);
  }
  wait_for_kernel_before();
  if (!exists) return;
  std::byte* to = record_k(p, work.slot.slot, t, qk_head);
#pragma unroll
  for (int i = 0; i < Stage::kPerLane; ++i) {
    const int at = lane * Stage::kPerLane + i;
    if (at < K) store_element(to, p.record_k.dtype, k[i], at);
  }
  if (lane < group) store_element(record_g(p, work.slot.slot, t, head), p.record_g.dtype, g);
  // Of a q/k head with more value heads than lanes.
  for (int h = lane + kWarp; h < group; h += kWarp) {
    store_element(record_g(p, work.slot.slot, t, qk_head * group + h), p.record_g.dtype,
                  load_gate(p.gates, work.s, t, qk_head * group + h).g);
  }
}

Status replace_records(const ReplayProblem& problem, const Device& device, const Stream& stream) {
  const Shape& shape = problem.shape;
  const int64_t warps = shape.sequences * problem.record_tokens * shape.heads;
  const Launch how{(warps + 3) / 4, 4 * kWarp, 0, stream.stream, starts_early(device)};
  const Flag flag{stream.out_of_range};
  const Divisor heads(shape.heads), tokens(problem.record_tokens);
  switch (elements_per_lane(shape.K)) {
    case 8:
      return launch(&record_kernel<64>, how, problem, flag, heads, tokens);
    case 16:
      return launch(&record_kernel<128>, how, problem, flag, heads, tokens);
    default:
      return launch(&record_kernel<256>, how, problem, flag, heads, tokens);
  }
}

// Whether tiles and rows are whole, vectors aligned, and rows of 16-bit elements: the usual call,
// with a kernel of half the instructions. The choice changes no bit.
bool is_plain(const ReplayProblem& p, const BlockGrid& grid, int whole_k, int warp_columns) {
  const auto rows = [](const TokenTensor& x) { return size_of(x.dtype) == 2 && rows_of_fours(x); };
  const bool tokens = !p.verifies() || (rows(p.q) && rows(p.k));
  return tokens && p.shape.K == whole_k && p.shape.V % (grid.warps * warp_columns) == 0 &&
         slots_aligned(p.state, 16) && size_of(p.record_k.dtype) == 2 &&
         slots_aligned(p.record_k, 8);
}

}  // namespace

Status replay(const ReplayProblem& problem, const Device& device, const Stream& stream) {
  const Shape& shape = problem.shape;
  Status status =
      with_tile(problem.state.dtype, shape.layout, shape.K, [&](auto element, auto vk, auto size) {
        constexpr int kColumns = columns_per_warp(size);
        const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
        const BlockGrid grid = BlockGrid::of(shape, sequences, kColumns, device.multiprocessors,
                                             kMostWarps<decltype(element)>);
        const auto run = [&](auto plain) {
          return launch(&replay_kernel<decltype(element), decltype(vk)::value, size, plain>,
                        {grid.blocks, grid.warps * kWarp, 0, stream.stream, starts_early(device)},
                        problem, Flag{stream.out_of_range}, grid);
        };
        if constexpr (size <= 16) {
          if (is_plain(problem, grid, size * kLanesPerColumn, kColumns)) {
            return run(std::true_type());
          }
        }
        return run(std::false_type());
      });
  if (!status.ok() || !problem.verifies()) return status;
  return replace_records(problem, device, stream);
}

}  // namespace gdn::cuda
