// The causal convolution: a block for 64 tokens of a sequence and 128 channels, a thread a channel
// with the last W inputs in its registers. The block with a sequence's first tokens alone reads and
// writes its state; the history of the others lies in x.
#include "cuda/chunk_table.cuh"
#include "cuda/gates.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace gdn::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kTokens = 64;  // at least the widest history, W - 1
constexpr int kMaxWidth = 8;

// Where a sequence starts from.
struct Start {
  bool skip;
  int64_t slot;     // negative: zero
  int64_t dropped;  // newest inputs of the slot that are not used
};

__device__ Start start_of(const CausalConv1dProblem& p, int64_t n, const Sequence& s,
                          const Flag& flag) {
  const bool given = p.initial_state.given();
  const StateSlots::Read read = read_of(p, n, given ? p.initial_state.slots : INT64_MAX, flag);
  Start start{read.skip, given ? read.slot : -1, 0};
  if (start.skip || start.slot < 0) return start;
  start.dropped = p.dropped(n, s.length);
  const bool wrong = start.dropped < 0 || (s.length > 0 && start.dropped >= s.length) ||
                     start.dropped + p.shape.K - 1 > p.shape.state_length;
  if (flag.raise_if(wrong)) return {true, -1, 0};
  return start;
}

// A channel of a sequence: its inputs by their distance from the first token, those before it from
// the state.
template <class T>
struct Channel {
  const CausalConv1dProblem& p;
  const Sequence& s;
  const Start& start;
  int64_t channel;

  __device__ float x(int64_t t) const {
    return to_float(reinterpret_cast<const T*>(p.x.at(s, t, 0))[channel]);
  }
  // Element i of the state that the sequence starts from, counted without what is dropped.
  __device__ float state(int64_t i) const {
    if (start.slot < 0) return 0;
    return load_element(p.initial_state.at(start.slot, channel, i), p.initial_state.dtype);
  }
  __device__ float input(int64_t t) const {
    return t >= 0 ? x(t) : state(p.shape.state_length - start.dropped + t);
  }
  // The state after `count` tokens. Where it is the slot that the sequence started from, every
  // element is read before it is written.
  __device__ void store_state(int64_t slot, int64_t count) const {
    if (slot < 0) return;
    const int64_t S = p.shape.state_length;
    for (int64_t i = 0; i < S; ++i) {
      store_element(p.final_state.at(slot, channel, i), p.final_state.dtype, input(count - S + i));
    }
  }
};

template <class T>
__device__ void store_states(const Channel<T>& channel, int64_t n, const Flag& flag) {
  const CausalConv1dProblem& p = channel.p;
  if (!p.final_state.given()) return;
  const auto slot_after = [&](int64_t t) {
    return written_slot_of(p, n, t, p.final_state.slots, flag);
  };
  if (!p.stores_every_state()) return channel.store_state(slot_after(0), channel.s.length);
  // The slot that is read comes last.
  const bool in_place = p.final_state.data == p.initial_state.data;
  int64_t own = -1;
  for (int64_t t = 0; t < channel.s.length; ++t) {
    const int64_t slot = slot_after(t);
    if (in_place && slot >= 0 && slot == channel.start.slot) {
      own = t;
    } else {
      channel.store_state(slot, t + 1);
    }
  }
  if (own >= 0) channel.store_state(channel.start.slot, own + 1);
}

template <class T>
__device__ void zero_rows(const CausalConv1dProblem& p, const Sequence& s, int64_t begin,
                          int64_t end, int64_t channel) {
  for (int64_t t = begin; t < end; ++t) {
    reinterpret_cast<T*>(p.y.at(s, t, 0))[channel] = from_float<T>(0);
  }
}

template <class T, int W>
__global__ void __launch_bounds__(kThreads)
    causal_conv1d_kernel(const __grid_constant__ CausalConv1dProblem p, const Flag flag,
                         uint32_t channel_blocks) {
  const ChunkTable table{p.sequences, kTokens};
  const int64_t channel =
      static_cast<int64_t>(blockIdx.x % channel_blocks) * kThreads + threadIdx.x;
  if (channel >= p.shape.V) return;
  const ChunkTable::Place place = table.find(blockIdx.x / channel_blocks);
  if (place.n >= p.sequences.count) {
    if (place.chunk > 0) return;
    const Sequence tail = tail_of(p.sequences);
    return zero_rows<T>(p, tail, 0, tail.length, channel);
  }
  const Sequence s = sequence_of(p.sequences, place.n, flag);
  const int64_t begin = place.chunk * kTokens;
  const int64_t end = begin + kTokens < s.length ? begin + kTokens : s.length;
  if (place.chunk > 0 && begin >= end) return;
  const Start start = start_of(p, place.n, s, flag);
  if (start.skip) return zero_rows<T>(p, s, begin, end, channel);

  const Channel<T> own{p, s, start, channel};
  float weight[W], input[W];
#pragma unroll
  for (int j = 0; j < W; ++j) {
    weight[j] = load_element(p.weight.at(channel, j), p.weight.dtype);
    input[j] = j > 0 && begin < end ? own.input(begin - W + j) : 0.0f;
  }
  const float bias = p.bias.given() ? load_element(p.bias.at(channel), p.bias.dtype) : 0.0f;
  const T* x = reinterpret_cast<const T*>(p.x.at(s, begin, 0)) + channel;
  T* to = reinterpret_cast<T*>(p.y.at(s, begin, 0)) + channel;
  const int64_t x_stride = p.x.token_stride, y_stride = p.y.token_stride;
#pragma unroll 8
  for (int count = static_cast<int>(end - begin); count > 0; --count) {
#pragma unroll
    for (int j = 0; j + 1 < W; ++j) input[j] = input[j + 1];
    input[W - 1] = to_float(*x);
    float y = bias;
#pragma unroll
    for (int j = 0; j < W; ++j) y = __fmaf_rn(weight[j], input[j], y);
    *to = from_float<T>(p.silu ? silu(y) : y);
    x += x_stride;
    to += y_stride;
  }
  if (place.chunk == 0) store_states(own, place.n, flag);
}

template <class T>
Status launch_width(const CausalConv1dProblem& problem, const Stream& stream) {
  const ChunkTable table{problem.sequences, kTokens};
  const int64_t channel_blocks = (problem.shape.V + kThreads - 1) / kThreads;
  const int64_t numbers = table.bound() + (problem.sequences.cu_seqlens.given() ? 1 : 0);
  const Launch how{numbers * channel_blocks, kThreads, 0, stream.stream};
  const auto run = [&](auto width) {
    return launch(&causal_conv1d_kernel<T, decltype(width)::value>, how, problem,
                  Flag{stream.out_of_range}, static_cast<uint32_t>(channel_blocks));
  };
  static_assert(kMaxWidth == 8);
  switch (problem.shape.K) {
    case 1:
      return run(std::integral_constant<int, 1>());
    case 2:
      return run(std::integral_constant<int, 2>());
    case 3:
      return run(std::integral_constant<int, 3>());
    case 4:
      return run(std::integral_constant<int, 4>());
    case 5:
      return run(std::integral_constant<int, 5>());
    case 6:
      return run(std::integral_constant<int, 6>());
    case 7:
      return run(std::integral_constant<int, 7>());
    default:
      return run(std::integral_constant<int, 8>());
  }
}

}  // namespace

Status causal_conv1d(const CausalConv1dProblem& problem, const Stream& stream) {
  return with_element(problem.shape.dtype, [&](auto element) {
    return launch_width<decltype(element)>(problem, stream);
  });
}

}  // namespace gdn::cuda
