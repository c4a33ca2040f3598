// The second kernel of the chunk operator on Hopper: a block owns 64 V columns of a (sequence,
// value head), or of a segment of it, or all 128 (chunk_wide.h), and walks its chunks. It has a
// warpgroup with the state for each 64 (chunk_sm90_state.cuh) and three warps that move
// (chunk_sm90_movers.cuh).
#include "cuda/chunk_sm90_movers.cuh"
#include "cuda/chunk_sm90_range.cuh"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/chunk_sm90_state.cuh"
#include "cuda/dependent.cuh"
#include "cuda/launch.h"
#include "cuda/resolve.cuh"

namespace gdn::cuda::sm90 {
namespace {

// What a kernel walks: segments from where they begin, 64 columns a block or all 128; or from zero
// and from the identity, without outputs; or, first segments so and the others so, all with
// outputs.
enum class Walks { kSegments, kWide, kApart, kOnce };
constexpr int groups_of(Walks walks) { return walks == Walks::kWide ? 2 : 1; }
// Of a block: the warpgroups with a state, and three warps that move. Two warpgroups take registers
// of those that move, which are a warpgroup then: one of them loads values alone, lest the one that
// loads tokens spills.
constexpr int threads_of(Walks walks) {
  return walks == Walks::kWide ? 3 * kGroup : kGroup + 3 * kWarp;
}
constexpr int kWideRegisters = 240, kMoverRegisters = 24;
// What the threads begin with, in steps of eight.
static_assert(2 * kWideRegisters + kMoverRegisters <=
              3 * (64 * 1024 / threads_of(Walks::kWide) / 8 * 8));

template <class T, Walks kWalks>
__device__ void zero_columns(const DeltaRuleProblem& p, const Sequence& s, int64_t head, int v0) {
  constexpr int kCount = groups_of(kWalks) * kColumns;
  for (int64_t i = threadIdx.x; i < s.length * kCount; i += threads_of(kWalks)) {
    reinterpret_cast<T*>(p.out.at(s, i / kCount, head))[v0 + i % kCount] = from_float<T>(0);
  }
}

template <int K, int kGroups>
__device__ void init_barriers(Shared<K, kGroups>& m) {
  using S = Shared<K, kGroups>;
  constexpr int kArriving = S::kWarps * kArrivals;
  const auto init = [](uint64_t& barrier, int arrivals) {
    init_barrier(shared_address(&barrier), arrivals);
  };
  // Of the warps that load, and the bytes.
  for (uint64_t& barrier : m.tokens_full) init(barrier, S::kTokenLoaders * kArrivals + 1);
  for (uint64_t& barrier : m.inverse_full) init(barrier, 1);
  for (uint64_t& barrier : m.products_full) init(barrier, 1);
  const int waiters = kArriving * cluster_size();
  for (uint64_t& barrier : m.tokens_empty) init(barrier, waiters);
  for (uint64_t& barrier : m.inverse_empty)
    init(barrier, S::kClusterOfOneHead ? waiters : kArriving);
  for (uint64_t& barrier : m.products_empty) init(barrier, waiters);
  for (uint64_t& barrier : m.out_full) init(barrier, kArriving);
  for (uint64_t& barrier : m.out_empty) init(barrier, kArrivals);
  fence_barrier_init();
}

// The rows of T and P above the diagonal, which no copy writes.
template <int K, int kGroups>
__device__ void zero_above(Shared<K, kGroups>& m) {
  const auto zero = [](Panels& matrix) {
    for (int p = 1; p < Panels::kCount; ++p) {
      const int parts = p * HeadRecord::kTileBytes / 16, i = static_cast<int>(threadIdx.x);
      if (i < parts) reinterpret_cast<uint4*>(matrix.panel[p])[i] = uint4{};
    }
  };
  for (Inverse& stage : m.inverse) {
    zero(stage.T_high);
    zero(stage.T_low);
  }
  for (Products<K>& stage : m.products) zero(stage.P);
  fence_async_proxy();
}

// Values of a transition.
template <int K>
__device__ void zero_values(Shared<K, 1>& m) {
  for (Tokens<K, 1>& stage : m.tokens) {
    for (int i = static_cast<int>(threadIdx.x); i < kTileBytes / 16;
         i += threads_of(Walks::kSegments)) {
      reinterpret_cast<uint4*>(stage.v)[i] = uint4{};
    }
  }
}

// What the numbering of the grid gives a block.
struct Job {
  int n = -1;  // of the sequences; negative: there is nothing to do
  int segment = 0;
  int boundary = 0;  // before the segment
  int head = 0;
  int v0 = 0;  // first column of V, or row of a transition
  Walk walk = Walk::kSegment;
};

// How many blocks of a grid go by sequences, for their first segments, which are all there is
// without a split; and how many by boundaries, for the segments after them.
struct Blocks {
  int64_t of_sequences = 0, of_boundaries = 0;
  // Of a value head: 64 columns of V, and behind boundaries rows of a transition, too.
  int columns, rows = 0;
};
Blocks blocks_of(const DeltaRuleProblem& problem, const Layout& layout, Pass pass) {
  const Shape& shape = problem.shape;
  // One sequence more for the rows past the last one.
  const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
  Blocks blocks;
  blocks.columns = layout.wide ? 1 : static_cast<int>(shape.V / kColumns);
  if (pass == Pass::kApart || pass == Pass::kOnce)
    blocks.rows = static_cast<int>(shape.K / kColumns);
  if (pass == Pass::kFirst || pass == Pass::kOnce) {
    blocks.of_sequences = sequences * shape.value_heads * blocks.columns;
  }
  if (pass != Pass::kFirst) {
    blocks.of_boundaries =
        layout.boundaries.count * shape.value_heads * (blocks.columns + blocks.rows);
  }
  return blocks;
}

template <Walks kWalks>
__device__ Job job_of(const DeltaRuleProblem& p, const Layout& layout, const Part& part,
                      const Blocks& blocks, const Flag& flag) {
  Job job;
  const uint32_t heads = static_cast<uint32_t>(p.shape.value_heads);
  const auto of_sequences = static_cast<uint32_t>(blocks.of_sequences);
  const bool first = blockIdx.x < of_sequences;
  const uint32_t block = first ? blockIdx.x : blockIdx.x - of_sequences;
  const auto parts = static_cast<uint32_t>(blocks.columns + (first ? 0 : blocks.rows));
  auto column = static_cast<int>(block % parts);
  job.head = static_cast<int>(block / parts % heads);
  const int outer = static_cast<int>(block / parts / heads);
  if (first) {
    job.n = outer;
  } else {
    const BoundaryPlace place = find_boundary(p, layout.segments, part, outer, flag);
    job.boundary = outer;
    job.segment = static_cast<int>(place.segment);
    // Walked apart and again, a last segment is walked once.
    if (kWalks != Walks::kApart || !place.last) job.n = static_cast<int>(place.n);
    if constexpr (kWalks == Walks::kApart || kWalks == Walks::kOnce) {
      job.walk = column < blocks.columns ? Walk::kFromZero : Walk::kTransition;
      if (job.walk == Walk::kTransition) column -= blocks.columns;
    }
  }
  job.v0 = column * kColumns;
  return job;
}

// The warpgroup that has the state, from where the state is to where it goes.
template <class T, int K, Walks kWalks>
__device__ __forceinline__ void walk_state(Shared<K, groups_of(kWalks)>& m,
                                           const DeltaRuleProblem& p, const Flag& flag,
                                           const Layout& layout, const Part& part,
                                           std::byte* workspace, const Job& job, const Range& range,
                                           const Block& block, const InitialState& initial,
                                           bool last) {
  const Shape& shape = p.shape;
  const Records& records = layout.records;
  const Boundaries& boundaries = layout.boundaries;
  StateColumns<T, K, groups_of(kWalks)> state{m};
  const int v0 = job.v0 + state.group * kColumns;
  // Of float32 states [V,K] within a call.
  const auto within = [&](float* head) {
    return StatePlace{reinterpret_cast<std::byte*>(head + v0 * K), DType::kF32, StateLayout::kVK};
  };
  const bool transition = job.walk == Walk::kTransition;
  const auto after_apart = [&] {
    return within(transition ? boundaries.transition(workspace, job.boundary, job.head)
                             : boundaries.from_zero(workspace, job.boundary, job.head));
  };
  if constexpr (kWalks == Walks::kApart) {
    state.begin_apart(transition, v0);
    state.template walk<Sink::kNone>(static_cast<int>(block.end - block.begin));
    if (transition) state.end_transition();
    state.store(after_apart(), shape.V);
    return;
  }

  const int64_t offset =
      int64_t{job.head} * shape.V * K + (shape.layout == StateLayout::kVK ? v0 * K : v0);
  const auto of_call = [&](std::byte* slot, DType dtype) {
    return StatePlace{slot == nullptr ? nullptr : slot + offset * size_of(dtype), dtype,
                      shape.layout};
  };
  const bool apart = kWalks == Walks::kOnce && job.walk != Walk::kSegment;
  state.as_accumulators = apart && !transition;
  if (apart) {
    state.begin_apart(transition, v0);
  } else {
    StatePlace from;
    if (job.segment == 0 && range.begins) {
      from = of_call(const_cast<std::byte*>(initial.data), p.initial_state.dtype);
    } else {
      wait_for_memory_of_kernel_before();
      from = within(job.segment > 0 ? boundaries.state(workspace, job.boundary, job.head)
                                    : records.carried_state(workspace, part.index - 1, job.head));
    }
    state.load(from, shape.V);
  }
  // That the state goes to after a first segment, if it is not the last; of the others the fold has
  // it.
  const int boundary = !last && job.segment == 0
                           ? static_cast<int>(layout.segments.first_boundary(range.in_part(part)))
                           : -1;
  // Where the state goes, worked out while there is time. By warps, so that none waits for another.
  StatePlace to;
  if (apart) {
    to = after_apart();
  } else if (boundary >= 0) {
    to = within(boundaries.state(workspace, boundary, job.head));
  } else if (last && range.ends) {
    to = of_call(final_slot_of(p, job.n, 0, flag), p.final_state.dtype);
  } else if (last) {
    to = within(records.carried_state(workspace, part.index, job.head));
  }
  Destination& destination = m.to[state.group * kStateWarps + state.warp];
  if (state.lane == 0) {
    destination = {to, offset, job.n, static_cast<int>(range.s.length / kChunk)};
  }
  __syncwarp();
  // Chunks in 32 bits: registers are short while it walks.
  const int every = static_cast<int>(min(p.checkpoint_every / kChunk, int64_t{INT32_MAX}));
  const int end = static_cast<int>(block.end);
  for (int c = static_cast<int>(block.begin); c < end;) {
    const int left = end - c, to_checkpoint = every > 0 ? every - c % every : left;
    const int span = to_checkpoint < left ? to_checkpoint : left;
    state.template walk<kWalks == Walks::kOnce ? Sink::kEither : Sink::kTile>(span);
    c += span;
    if (kWalks != Walks::kOnce && every > 0 && c % every == 0 && c <= destination.whole) {
      std::byte* slot = checkpoint_of(p, destination.n, c / every - 1, flag);
      const DType dtype = p.checkpoints.dtype;
      state.store({slot == nullptr ? nullptr : slot + destination.offset * size_of(dtype), dtype,
                   shape.layout},
                  shape.V);
    }
  }
  if (apart && transition) state.end_transition();
  state.store(destination.end, shape.V);
}

template <class T, int K, Walks kWalks>
__device__ __forceinline__ void walk_block(Shared<K, groups_of(kWalks)>& m,
                                           const DeltaRuleProblem& p, const TokenMaps& maps,
                                           const Flag& flag, const Layout& layout, const Part& part,
                                           const Blocks& blocks, std::byte* workspace) {
  constexpr bool kOutputs = kWalks != Walks::kApart;
  const Shape& shape = p.shape;
  // A block with nothing to walk waits, as the warp that loads records would.
  const auto wait_for_before = [] {
    if constexpr (kOutputs) wait_for_kernel_before();
  };
  const Job job = job_of<kWalks>(p, layout, part, blocks, flag);
  const Partials& partials = layout.partials;
  // For who completes the outputs.
  const auto tell_place = [&](const auto& place) {
    if constexpr (kWalks == Walks::kOnce) {
      if (threadIdx.x == 0 && job.walk == Walk::kFromZero && job.head == 0 && job.v0 == 0) {
        *partials.place(workspace) = place();
      }
    }
  };
  tell_place([] { return PartialPlace{}; });
  if (job.n < 0) return wait_for_before();
  if (job.n >= p.sequences.count) {
    wait_for_before();
    if (part.last) zero_columns<T, kWalks>(p, tail_of(p.sequences), job.head, job.v0);
    return;
  }
  const Range range = range_of(p, part, job.n, flag);
  if (!range.here) return wait_for_before();
  const InitialState initial = initial_of(p, job.n, flag);
  if (initial.skip) {
    wait_for_before();
    if (range.begins && job.segment == 0) zero_columns<T, kWalks>(p, range.s, job.head, job.v0);
    return;
  }
  const bool last = job.segment + 1 == layout.segments.count(range.chunks());
  std::byte* partial = nullptr;
  if constexpr (kWalks == Walks::kOnce) {
    if (job.walk == Walk::kTransition) partial = partials.queries(workspace, 0, job.head, job.v0);
    if (job.walk == Walk::kFromZero) partial = partials.output(workspace, 0, job.head, job.v0);
  }
  const Block block{
      job.walk,
      kOutputs,
      partial,
      range.s,
      static_cast<int>(static_cast<uint32_t>(job.head) / (static_cast<uint32_t>(shape.value_heads) /
                                                          static_cast<uint32_t>(shape.heads))),
      job.head,
      job.v0,
      range.number,
      range.begin + layout.segments.begin(job.segment),
      last ? range.end : range.begin + layout.segments.begin(job.segment + 1)};
  const int64_t first = block.begin * kChunk;
  tell_place([&] {
    return PartialPlace{static_cast<int>(range.s.begin + first), static_cast<int>(range.s.batch),
                        static_cast<int>(range.s.length - first), final_slot_of(p, job.n, 0, flag)};
  });
  if (threadIdx.x == 0) init_barriers(m);
  zero_above(m);
  if constexpr (kWalks == Walks::kApart || kWalks == Walks::kOnce) {
    if (job.walk == Walk::kTransition) zero_values(m);
  }
  __syncthreads();
  sync_cluster();

  const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarp, 0);
  constexpr bool kWide = kWalks == Walks::kWide;
  constexpr int kWarps = Shared<K, groups_of(kWalks)>::kWarps;
  if constexpr (kWide) {
    if (warp >= kWarps) leave_registers<kMoverRegisters>();
  }
  if (warp == kWarps) {
    load_tokens<T, kWide ? Loads::kKeysQueries : Loads::kAll>(m, p, maps, block);
  } else if (kWide && warp == kWarps + 3) {
    load_tokens<T, Loads::kValues>(m, p, maps, block);
  } else if (warp == kWarps + 1) {
    load_records(m, layout.records, layout.beside, part, workspace, block);
  } else if (warp == kWarps + 2) {
    store_outputs<T>(m, p, maps, partials.stride(), block);
  } else if (!kWide || warp < kWarps) {
    if constexpr (kWide) take_registers<kWideRegisters>();
    walk_state<T, K, kWalks>(m, p, flag, layout, part, workspace, job, range, block, initial, last);
  }
}

// Walks with outputs begin while kernels before still run: of this part the preparation or the
// fold, and, as a later part's preparation lets the next in at once, the walk of the part before.
// Until they have ended a block sets up, and loads tokens and states that the call began with,
// which no kernel of the call writes (written slots are no other sequence's to read). Who loads
// records waits, and with it, behind its barriers, all who use them; so does who writes zeros or
// loads another state. Beside the preparation (chunk_sm90_beside.h) records are waited for by their
// flags, and for the preparation's end only when all are there. A walk of no chunks stores at once
// the state that it began with. What is walked once tells its place at once: that is of a call in
// one part, whose preparation has waited for the kernel before. Walks without outputs run beside
// those of the first segments: they do not wait for the kernel before, but end after it, so that
// the end of a kernel is the end of all before it.
template <class T, int K, Walks kWalks>
__global__ void __launch_bounds__(threads_of(kWalks), 1)
    walk_kernel(const __grid_constant__ DeltaRuleProblem p, const __grid_constant__ TokenMaps maps,
                const Flag flag, const __grid_constant__ Layout layout, const Part part,
                const Blocks blocks, std::byte* workspace) {
  extern __shared__ __align__(1024) std::byte memory[];
  constexpr bool kApart = kWalks == Walks::kApart;
  if constexpr (kApart) let_next_kernel_in();
  walk_block<T, K, kWalks>(*reinterpret_cast<Shared<K, groups_of(kWalks)>*>(memory), p, maps, flag,
                           layout, part, blocks, workspace);
  if (kApart && blockIdx.x == 0 && threadIdx.x == 0) wait_for_memory_of_kernel_before();
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

Status walk(const DeltaRuleProblem& problem, const TokenMaps& maps, const Layout& layout,
            const Part& part, Pass pass, std::byte* workspace, const Stream& stream) {
  const Shape& shape = problem.shape;
  const Blocks blocks = blocks_of(problem, layout, pass);
  // The blocks of a value head's columns, or of its transition's rows; or of two value heads.
  const bool pairs = layout.wide || (blocks.columns == 2 && blocks.rows % 2 == 0);
  const int cluster = pairs && !kForRacecheck ? 2 : 1;
  const auto run = [&](auto element, auto k, auto walks) {
    constexpr int K = decltype(k)::value;
    constexpr Walks kWalks = decltype(walks)::value;
    return launch(&walk_kernel<decltype(element), K, kWalks>,
                  {blocks.of_sequences + blocks.of_boundaries, threads_of(kWalks),
                   sizeof(Shared<K, groups_of(kWalks)>), stream.stream, true, cluster},
                  problem, maps, Flag{stream.out_of_range}, layout, part, blocks, workspace);
  };
  const auto with_k = [&](auto element, auto walks) {
    return shape.K == 64 ? run(element, std::integral_constant<int, 64>(), walks)
                         : run(element, std::integral_constant<int, 128>(), walks);
  };
  const auto with_element = [&](auto walks) {
    return shape.dtype == DType::kBF16 ? with_k(__nv_bfloat16(), walks) : with_k(__half(), walks);
  };
  switch (pass) {
    case Pass::kApart:
      return with_element(std::integral_constant<Walks, Walks::kApart>());
    case Pass::kOnce:
      return with_k(__nv_bfloat16(), std::integral_constant<Walks, Walks::kOnce>());
    default:
      if (layout.wide) {
        return run(__nv_bfloat16(), std::integral_constant<int, 128>(),
                   std::integral_constant<Walks, Walks::kWide>());
      }
      return with_element(std::integral_constant<Walks, Walks::kSegments>());
  }
}

}  // namespace gdn::cuda::sm90
