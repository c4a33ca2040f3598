// The causal convolution: a block for 64 tokens of a sequence, a thread for four adjacent channels,
// or one where tensors are not laid out for that, with their last W inputs in its registers. The
// block with a sequence's first tokens alone reads and writes its state; the history of the others
// lies in x.
#include <algorithm>

#include "cuda/chunk_table.cuh"
#include "cuda/dependent.cuh"
#include "cuda/divisor.cuh"
#include "cuda/gates.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace gdn::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kTokens = 64;  // at least the widest history, W - 1
constexpr int kMaxWidth = 8;
constexpr int kAdjacent = 4;  // channels of a thread

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

// C adjacent elements as bits: nothing waits for them before they become floats.
template <int C>
__device__ __forceinline__ FourElements load_bits_of(const std::byte* p, DType dtype) {
  static_assert(C == 1 || C == 4);
  FourElements four{};
  if constexpr (C == 1) {
    four.bits.x = load_bits(p, dtype);
  } else if (dtype == DType::kF32) {
    four.bits = *reinterpret_cast<const uint4*>(p);
  } else {
    const uint2 bits = *reinterpret_cast<const uint2*>(p);
    four.bits.x = bits.x;
    four.bits.y = bits.y;
  }
  return four;
}
template <int C>
__device__ __forceinline__ void floats_of(const FourElements& four, DType dtype, float (&x)[C]) {
  if constexpr (C == 1) {
    x[0] = from_bits(four.bits.x, dtype);
  } else {
    to_floats(four, dtype, x);
  }
}
template <int C>
__device__ __forceinline__ void store(std::byte* p, DType dtype, const float (&x)[C]) {
  with_element(dtype,
               [&](auto element) { store_whole_run(reinterpret_cast<decltype(element)*>(p), x); });
}

// L taps, of the weight or of a state, of C adjacent channels, as L pieces of C elements: tap by
// tap where channels lie side by side; else C is 1, or the taps of all channels are one block of
// memory.
template <int C, int L>
struct Taps {
  FourElements pieces[L];

  static __device__ bool by_channel(int64_t channel_stride) { return C > 1 && channel_stride != 1; }
  __device__ void load(const std::byte* first, DType dtype, int64_t channel_stride,
                       int64_t tap_stride) {
    const int64_t step = (by_channel(channel_stride) ? C : tap_stride) * size_of(dtype);
#pragma unroll
    for (int i = 0; i < L; ++i) pieces[i] = load_bits_of<C>(first + i * step, dtype);
  }
  __device__ void get(DType dtype, int64_t channel_stride, float (*x)[C]) const {
#pragma unroll
    for (int i = 0; i < L; ++i) {
      float piece[C];
      floats_of(pieces[i], dtype, piece);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const int at = i * C + c;
        if (by_channel(channel_stride)) {
          x[at % L][at / L] = piece[c];
        } else {
          x[i][c] = piece[c];
        }
      }
    }
  }
  static __device__ void put(std::byte* first, DType dtype, int64_t channel_stride,
                             int64_t tap_stride, const float (*x)[C]) {
    const int64_t step = (by_channel(channel_stride) ? C : tap_stride) * size_of(dtype);
#pragma unroll
    for (int i = 0; i < L; ++i) {
      float piece[C];
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const int at = i * C + c;
        piece[c] = by_channel(channel_stride) ? x[at % L][at / L] : x[i][c];
      }
      store(first + i * step, dtype, piece);
    }
  }
};

// The last W inputs of C channels up to some token, the newest last. What a token's successor, or a
// state of S = W - 1, needs of them are all but the first.
template <int W, int C>
using Window = float[W][C];

// Adjacent channels of a sequence: their inputs by the distance from the first token, those before
// it from the state.
template <class T, int W, int C>
struct Channels {
  static constexpr int kHistory = W - 1;
  const CausalConv1dProblem& p;
  const Sequence& s;
  const Start& start;
  int64_t channel;  // the first

  __device__ const std::byte* x(int64_t t) const {
    return p.x.at(s, t, 0) + channel * static_cast<int64_t>(sizeof(T));
  }
  // Element i of the state that the sequence starts from.
  __device__ void state(int64_t i, float (&v)[C]) const {
#pragma unroll
    for (int c = 0; c < C; ++c) {
      v[c] = start.slot < 0 ? 0.0f
                            : load_element(p.initial_state.at(start.slot, channel + c, i),
                                           p.initial_state.dtype);
    }
  }
  __device__ void input(int64_t t, float (&v)[C]) const {
    if (t >= 0) {
      floats_of(load_bits_of<C>(x(t), p.x.dtype), p.x.dtype, v);
    } else {
      state(p.shape.state_length - start.dropped + t, v);
    }
  }
  __device__ void store_window(int64_t slot, const Window<W, C>& window) const {
    if constexpr (W > 1) {
      if (slot < 0) return;
      const ChannelStates& to = p.final_state;
      Taps<C, kHistory>::put(to.at(slot, channel), to.dtype, to.channel_stride, to.input_stride,
                             window + 1);
    }
  }
  // The state after `count` tokens. Where it is the slot that the sequence started from, every
  // element is read before it is written.
  __device__ void store_state(int64_t slot, int64_t count) const {
    if (slot < 0) return;
    const int64_t S = p.shape.state_length;
    if (S == kHistory) {
      Window<W, C> window;
#pragma unroll
      for (int j = 1; j < W; ++j) input(count - W + j, window[j]);
      return store_window(slot, window);
    }
    for (int64_t i = 0; i < S; ++i) {
      float v[C];
      input(count - S + i, v);
      store(p.final_state.at(slot, channel, i), p.final_state.dtype, v);
    }
  }
};

// `last` are the inputs up to the last token that this block has.
template <class T, int W, int C>
__device__ void store_states(const Channels<T, W, C>& own, int64_t n, bool has_last,
                             const Window<W, C>& last, const Flag& flag) {
  const CausalConv1dProblem& p = own.p;
  if (!p.final_state.given()) return;
  const auto slot_after = [&](int64_t t) {
    return written_slot_of(p, n, t, p.final_state.slots, flag);
  };
  if (!p.stores_every_state()) {
    if (has_last && p.shape.state_length == W - 1) return own.store_window(slot_after(0), last);
    return own.store_state(slot_after(0), own.s.length);
  }
  // The slot that is read comes last.
  const bool in_place = p.final_state.data == p.initial_state.data;
  int64_t own_token = -1;
  for (int64_t t = 0; t < own.s.length; ++t) {
    const int64_t slot = slot_after(t);
    if (in_place && slot >= 0 && slot == own.start.slot) {
      own_token = t;
    } else {
      own.store_state(slot, t + 1);
    }
  }
  if (own_token >= 0) own.store_state(own.start.slot, own_token + 1);
}

template <class T, int C>
__device__ void zero_rows(const CausalConv1dProblem& p, const Sequence& s, int64_t begin,
                          int64_t end, int64_t channel) {
  constexpr float kZeros[C] = {};
  for (int64_t t = begin; t < end; ++t) {
    store_whole_run(reinterpret_cast<T*>(p.y.at(s, t, 0)) + channel, kZeros);
  }
}

// What block has what.
struct Blocks {
  ChunkTable table;
  Divisor channel_blocks, chunks_per_row;

  __device__ ChunkTable::Place find(uint32_t number) const {
    if (table.sequences.cu_seqlens.given()) return table.find(number);
    const uint32_t n = chunks_per_row.divide(number);
    return {n, number - n * chunks_per_row.value};
  }
};

template <class T, int W, int C>
__global__ void __launch_bounds__(kThreads)
    causal_conv1d_kernel(const __grid_constant__ CausalConv1dProblem p, const Flag flag,
                         const __grid_constant__ Blocks blocks) {
  constexpr int kBatch = 16 / static_cast<int>(sizeof(T));  // tokens whose loads are in flight
  wait_for_kernel_before();
  const uint32_t number = blocks.channel_blocks.divide(blockIdx.x);
  const uint32_t channel_block = blockIdx.x - number * blocks.channel_blocks.value;
  const int64_t channel = (static_cast<int64_t>(channel_block) * kThreads + threadIdx.x) * C;
  if (channel >= p.shape.V) return;
  const ChunkTable::Place place = blocks.find(number);
  if (place.n >= p.sequences.count) {
    if (place.chunk > 0) return;
    const Sequence tail = tail_of(p.sequences);
    return zero_rows<T, C>(p, tail, 0, tail.length, channel);
  }
  const Sequence s = sequence_of(p.sequences, place.n, flag);
  const int64_t begin = place.chunk * kTokens;
  const int64_t end = begin + kTokens < s.length ? begin + kTokens : s.length;
  if (place.chunk > 0 && begin >= end) return;
  const Start start = start_of(p, place.n, s, flag);
  if (start.skip) return zero_rows<T, C>(p, s, begin, end, channel);

  // First all loads, then what waits for them.
  const Channels<T, W, C> own{p, s, start, channel};
  const DType dtype = std::is_same_v<T, float>           ? DType::kF32
                      : std::is_same_v<T, __nv_bfloat16> ? DType::kBF16
                                                         : DType::kF16;
  const std::byte* from = own.x(begin);
  T* to = reinterpret_cast<T*>(p.y.at(s, begin, 0)) + channel;
  const int64_t x_stride = p.x.token_stride * static_cast<int64_t>(sizeof(T));
  const int64_t y_stride = p.y.token_stride;
  const int count = static_cast<int>(end - begin);
  FourElements x[kBatch];
  // What a batch has of the rest of the tokens, which may be one.
  const auto load = [&](int rest) {
    const auto load_one = [&](int i) { x[i] = load_bits_of<C>(from + i * x_stride, dtype); };
    if (rest >= kBatch) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) load_one(i);
    } else {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (i >= rest) break;
        load_one(i);
      }
    }
    from += kBatch * x_stride;
  };
  load(count);
  Taps<C, W> weight_taps;
  weight_taps.load(p.weight.at(channel), p.weight.dtype, p.weight.row_stride,
                   p.weight.column_stride);
  Taps<C, std::max(1, W - 1)> history;
  const bool from_state = begin == 0 && start.slot >= 0;
  if (W > 1 && from_state) {
    history.load(
        p.initial_state.at(start.slot, channel, p.shape.state_length - start.dropped - (W - 1)),
        p.initial_state.dtype, p.initial_state.channel_stride, p.initial_state.input_stride);
  } else if (W > 1 && begin > 0) {
    history.load(own.x(begin - (W - 1)), dtype, 1, p.x.token_stride);
  }
  uint32_t bias_bits[C] = {};
  if (p.bias.given()) {
#pragma unroll
    for (int c = 0; c < C; ++c) bias_bits[c] = load_bits(p.bias.at(channel + c), p.bias.dtype);
  }

  float weight[W][C], bias[C];
  Window<W, C> window = {};
  weight_taps.get(p.weight.dtype, p.weight.row_stride, weight);
#pragma unroll
  for (int c = 0; c < C; ++c) bias[c] = from_bits(bias_bits[c], p.bias.dtype);
  if (W > 1 && from_state) {
    history.get(p.initial_state.dtype, p.initial_state.channel_stride, window + 1);
  } else if (W > 1 && begin > 0) {
    history.get(dtype, 1, window + 1);
  }
  const auto step = [&](int i) {
#pragma unroll
    for (int j = 0; j + 1 < W; ++j) {
#pragma unroll
      for (int c = 0; c < C; ++c) window[j][c] = window[j + 1][c];
    }
    floats_of(x[i], dtype, window[W - 1]);
    float y[C];
#pragma unroll
    for (int c = 0; c < C; ++c) {
      y[c] = bias[c];
#pragma unroll
      for (int j = 0; j < W; ++j) y[c] = __fmaf_rn(weight[j][c], window[j][c], y[c]);
    }
    if (p.silu) {
#pragma unroll
      for (int c = 0; c < C; ++c) y[c] = silu_to<T>(y[c]);
    }
    store_whole_run(to + i * y_stride, y);
  };
  int rest = count;
  for (; rest >= kBatch; load(rest -= kBatch)) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) step(i);
    to += kBatch * y_stride;
  }
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    if (i >= rest) break;
    step(i);
  }
  if (place.chunk == 0) store_states(own, place.n, end == s.length, window, flag);
}

// Whether a thread may have kAdjacent channels: all accesses of as many elements are aligned.
bool allows_adjacent(const CausalConv1dProblem& p) {
  const auto whole = [](int64_t elements) { return elements % kAdjacent == 0; };
  const auto aligned = [](const std::byte* data, DType dtype) {
    return is_aligned(data, kAdjacent * size_of(dtype));
  };
  const auto tokens = [&](const TokenTensor& x) {
    return aligned(x.data, x.dtype) && whole(x.batch_stride) && whole(x.token_stride);
  };
  // Taps of a channel in all, of which `used` are loaded and stored at a time.
  const auto taps = [&](int64_t channel_stride, int64_t tap_stride, int64_t all, int64_t used) {
    return channel_stride == 1 ? all <= 1 || whole(tap_stride)
                               : channel_stride == all && tap_stride == 1 && all == used;
  };
  const auto states = [&](const ChannelStates& x) {
    return !x.given() ||
           (aligned(x.data, x.dtype) && whole(x.slot_stride) &&
            taps(x.channel_stride, x.input_stride, p.shape.state_length, p.shape.K - 1));
  };
  return whole(p.shape.V) && tokens(p.x) && tokens(p.y) && aligned(p.weight.data, p.weight.dtype) &&
         taps(p.weight.row_stride, p.weight.column_stride, p.shape.K, p.shape.K) &&
         states(p.initial_state) && states(p.final_state);
}

template <class T, int C>
Status launch_width(const CausalConv1dProblem& problem, const Device& device,
                    const Stream& stream) {
  const ChunkTable table{problem.sequences, kTokens};
  const int64_t channel_blocks = (problem.shape.V + kThreads * C - 1) / (kThreads * C);
  const int64_t numbers = table.bound() + (problem.sequences.cu_seqlens.given() ? 1 : 0);
  const Launch how{numbers * channel_blocks, kThreads, 0, stream.stream, starts_early(device)};
  const Blocks blocks{table, Divisor(channel_blocks), Divisor(table.per_row())};
  const auto run = [&](auto width) {
    return launch(&causal_conv1d_kernel<T, decltype(width)::value, C>, how, problem,
                  Flag{stream.out_of_range}, blocks);
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

Status causal_conv1d(const CausalConv1dProblem& problem, const Device& device,
                     const Stream& stream) {
  return with_element(problem.shape.dtype, [&](auto element) {
    using T = decltype(element);
    return allows_adjacent(problem) ? launch_width<T, kAdjacent>(problem, device, stream)
                                    : launch_width<T, 1>(problem, device, stream);
  });
}

}  // namespace gdn::cuda
