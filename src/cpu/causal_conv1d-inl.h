// The causal convolution. Channels are walked in vectors, a block of them at a time, whose weights
// lie transposed in scratch. An output needs W inputs: those of a sequence's first W - 1 tokens
// come from a copy, in float32, of its state and of these tokens; all others from x itself. Both
// are rows to the same code, so that where a range of tokens begins changes no bit.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Channels of a block, so that what a block keeps in scratch stays in the second-level cache; a
// page of a float32 row where the states are short.
inline int64_t conv_block_channels(const Shape& shape) {
  constexpr int64_t kScratchFloats = int64_t{1} << 16, kMost = 1024, kUnit64 = 64;
  const int64_t rows = 4 * shape.state_length + 3 * shape.K;
  const int64_t most = std::clamp(kScratchFloats / rows / kUnit64 * kUnit64, kUnit64, kMost);
  return std::min(most, (shape.V + kUnit64 - 1) / kUnit64 * kUnit64);
}

// Rows of floats, `width` apart.
struct ConvScratch {
  int64_t width;
  int64_t history;  // rows before the first token: the state's S, or W - 1 where there is none
  float* weight;    // W rows
  float* bias;      // one row
  float* inputs;    // the history and the first tokens
  float* last;      // S rows: the last inputs of a long sequence
  float* packed;    // S rows, or W: channels with their inputs together, as a slot has them

  ConvScratch(const Shape& shape, std::byte* memory)
      : width(conv_block_channels(shape)),
        history(std::max(shape.state_length, shape.K - 1)),
        weight(reinterpret_cast<float*>(memory)),
        bias(weight + shape.K * width),
        inputs(bias + width),
        last(inputs + 2 * history * width),
        packed(last + shape.state_length * width) {}
};

inline size_t causal_conv1d_scratch(const Shape& shape) {
  const int64_t S = shape.state_length, W = shape.K;
  const int64_t rows = W + 1 + 2 * std::max(S, W - 1) + S + std::max(S, W);
  return static_cast<size_t>(rows * conv_block_channels(shape)) * sizeof(float);
}

// A matrix [channels, inputs] in memory.
struct ChannelMatrix {
  std::byte* data;
  DType dtype;
  int64_t channel_stride, input_stride;

  bool packed(int64_t count) const { return input_stride == 1 && channel_stride == count; }
};

// n channels of `count` numbers each to `count` rows, and back.
inline void unpack_channels(const float* packed, int64_t n, int64_t count, float* to,
                            int64_t width) {
  const F32 d;
  int64_t i = 0;
  for (; count >= 2 && count <= 4 && i + kLanes <= n; i += kLanes) {
    const float* p = packed + i * count;
    Vec v[4];
    if (count == 2) hn::LoadInterleaved2(d, p, v[0], v[1]);
    if (count == 3) hn::LoadInterleaved3(d, p, v[0], v[1], v[2]);
    if (count == 4) hn::LoadInterleaved4(d, p, v[0], v[1], v[2], v[3]);
    for (int64_t j = 0; j < count; ++j) store(v[j], to + j * width + i);
  }
  transpose(packed + i * count, count, n - i, count, to + i, width);
}
inline void pack_channels(const float* from, int64_t n, int64_t count, int64_t width,
                          float* packed) {
  const F32 d;
  int64_t i = 0;
  for (; count >= 2 && count <= 4 && i + kLanes <= n; i += kLanes) {
    float* p = packed + i * count;
    const auto row = [&](int64_t j) { return load(from + j * width + i); };
    if (count == 2) hn::StoreInterleaved2(row(0), row(1), d, p);
    if (count == 3) hn::StoreInterleaved3(row(0), row(1), row(2), d, p);
    if (count == 4) hn::StoreInterleaved4(row(0), row(1), row(2), row(3), d, p);
  }
  transpose(from + i, width, count, n - i, packed + i * count, count);
}

// The first `count` inputs of n channels to rows and back.
inline void load_channels(const ChannelMatrix& from, int64_t n, int64_t count, float* packed,
                          float* to, int64_t width) {
  with_element(from.dtype, [&](auto element) {
    using T = decltype(element);
    const T* p = reinterpret_cast<const T*>(from.data);
    if (from.channel_stride == 1) {
      for (int64_t j = 0; j < count; ++j) load_row(p + j * from.input_stride, n, to + j * width);
    } else if (from.packed(count)) {
      load_row(p, n * count, packed);
      unpack_channels(packed, n, count, to, width);
    } else {
      for (int64_t j = 0; j < count; ++j) {
        gather(reinterpret_cast<const std::byte*>(p + j * from.input_stride), from.dtype,
               from.channel_stride, n, to + j * width);
      }
    }
  });
}
inline void store_channels(const float* from, int64_t width, int64_t n, int64_t count,
                           float* packed, const ChannelMatrix& to) {
  with_element(to.dtype, [&](auto element) {
    using T = decltype(element);
    T* p = reinterpret_cast<T*>(to.data);
    if (to.channel_stride == 1) {
      for (int64_t j = 0; j < count; ++j) store_row(from + j * width, n, p + j * to.input_stride);
    } else if (to.packed(count)) {
      pack_channels(from, n, count, width, packed);
      store_row(packed, n * count, p);
    } else {
      for (int64_t j = 0; j < count; ++j) {
        scatter(from + j * width, n, to.dtype, to.channel_stride,
                reinterpret_cast<std::byte*>(p + j * to.input_stride));
      }
    }
  });
}

// A block of channels: channels first .. first + n - 1.
struct ConvBlock {
  const CausalConv1dProblem& problem;
  const ConvScratch& scratch;
  int64_t first, n;
  bool past_caches;  // where the outputs go

  ChannelMatrix slot(const ChannelStates& states, int64_t slot) const {
    return {states.at(slot, first), states.dtype, states.channel_stride, states.input_stride};
  }
};

// kTokens outputs of kLanes channels from channel i on; x(k) is row k of the inputs, of which
// output t takes k = t .. t + W - 1. The order of the sum is that of the width.
template <int kTokens, int kW, class X>
HWY_INLINE void convolve(const ConvBlock& block, int64_t i, const X& x, Vec (&y)[kTokens]) {
  const ConvScratch& scratch = block.scratch;
  const Vec bias = load(scratch.bias + i);
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) y[t] = bias;
  if constexpr (kW > 0) {
    Vec rows[kTokens + kW - 1];
#pragma GCC unroll 16
    for (int k = 0; k < kTokens + kW - 1; ++k) rows[k] = x(k);
#pragma GCC unroll 8
    for (int j = 0; j < kW; ++j) {
      const Vec w = load(scratch.weight + j * scratch.width + i);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) y[t] = hn::MulAdd(rows[t + j], w, y[t]);
    }
  } else {
    for (int64_t j = 0; j < block.problem.shape.K; ++j) {
      const Vec w = load(scratch.weight + j * scratch.width + i);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) y[t] = hn::MulAdd(x(t + j), w, y[t]);
    }
  }
  if (block.problem.silu) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) y[t] = silu(y[t]);
  }
}

// kTokens rows of outputs. x is the row of the first token; those before it are as far apart.
template <int kTokens, int kW, class In, class Out>
HWY_INLINE void convolve_rows(const ConvBlock& block, const In* x, int64_t x_stride, Out* y,
                              int64_t y_stride) {
  const In* oldest = x - (block.problem.shape.K - 1) * x_stride;
  Vec out[kTokens];
  int64_t i = 0;
  for (; i + kLanes <= block.n; i += kLanes) {
    convolve<kTokens, kW>(
        block, i, [&](int64_t k) { return load(oldest + k * x_stride + i); }, out);
    if (block.past_caches) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) stream(out[t], y + t * y_stride + i);
    } else {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) store(out[t], y + t * y_stride + i);
    }
  }
  if (i < block.n) {
    const int64_t left = block.n - i;
    convolve<kTokens, kW>(
        block, i, [&](int64_t k) { return load_n(oldest + k * x_stride + i, left); }, out);
    for (int t = 0; t < kTokens; ++t) store_n(out[t], y + t * y_stride + i, left);
  }
}

// Tokens share the loads of weights and of one another's inputs.
constexpr int kConvTokens = 4;

template <int kW, class In, class Out>
void convolve_tokens(const ConvBlock& block, const In* x, int64_t x_stride, Out* y,
                     int64_t y_stride, int64_t tokens) {
  int64_t t = 0;
  for (; t + kConvTokens <= tokens; t += kConvTokens) {
    convolve_rows<kConvTokens, kW>(block, x + t * x_stride, x_stride, y + t * y_stride, y_stride);
  }
  for (; t < tokens; ++t) {
    convolve_rows<1, kW>(block, x + t * x_stride, x_stride, y + t * y_stride, y_stride);
  }
}

// The width of every published Gated DeltaNet has code of its own.
template <class In, class Out>
void convolve_tokens(const ConvBlock& block, const In* x, int64_t x_stride, Out* y,
                     int64_t y_stride, int64_t tokens) {
  if (block.problem.shape.K == 4) {
    convolve_tokens<4>(block, x, x_stride, y, y_stride, tokens);
  } else {
    convolve_tokens<0>(block, x, x_stride, y, y_stride, tokens);
  }
}

// Tokens t_begin .. t_end - 1 of sequence n. The task with its first token also writes the outputs
// that look at the state, and is the only one to read or write the state.
template <class T>
void convolve_sequence(const ConvBlock& block, int64_t n, int64_t t_begin, int64_t t_end) {
  const CausalConv1dProblem& problem = block.problem;
  const ConvScratch& scratch = block.scratch;
  const int64_t width = scratch.width, W = problem.shape.K, S = problem.shape.state_length;
  const Sequence s = problem.sequences.at(n);
  const auto x = [&](int64_t t) {
    return reinterpret_cast<const T*>(problem.x.at(s, t, 0)) + block.first;
  };
  const auto y = [&](int64_t t) {
    return reinterpret_cast<T*>(problem.y.at(s, t, 0)) + block.first;
  };
  const StateSlots::Read from = problem.read(n);
  if (from.skip) {
    for (int64_t t = t_begin; t < t_end; ++t) {
      std::memset(y(t), 0, static_cast<size_t>(block.n) * sizeof(T));
    }
    return;
  }
  if (t_begin == 0) {
    const int64_t slot = problem.initial_state.given() ? from.slot : -1;
    if (slot >= 0) {
      load_channels(block.slot(problem.initial_state, slot), block.n, S, scratch.packed,
                    scratch.inputs, width);
    } else {
      std::fill_n(scratch.inputs, scratch.history * width, 0.0f);
    }
    const bool stores = problem.final_state.given();
    const int64_t dropped = slot < 0 ? 0 : problem.dropped(n, s.length);
    float* tokens = scratch.inputs + (scratch.history - dropped) * width;
    const int64_t copied = std::min(s.length, stores ? std::max(W - 1, S) : W - 1);
    for (int64_t t = 0; t < copied; ++t) load_row(x(t), block.n, tokens + t * width);
    const int64_t head = std::min(s.length, W - 1);
    if (head > 0) convolve_tokens(block, tokens, width, y(0), problem.y.token_stride, head);

    const auto store_state = [&](int64_t to, int64_t count) {  // after so many tokens
      if (to < 0) return;
      const float* inputs = tokens + (count - S) * width;
      if (count > copied) {
        for (int64_t i = 0; i < S; ++i) {
          load_row(x(count - S + i), block.n, scratch.last + i * width);
        }
        inputs = scratch.last;
      }
      store_channels(inputs, width, block.n, S, scratch.packed,
                     block.slot(problem.final_state, to));
    };
    if (stores && problem.stores_every_state()) {
      for (int64_t t = 0; t < s.length; ++t) store_state(problem.written_slot(n, t), t + 1);
    } else if (stores) {
      store_state(problem.written_slot(n), s.length);
    }
  }
  const int64_t begin = std::max(t_begin, W - 1);
  if (begin < t_end) {
    convolve_tokens(block, x(begin), problem.x.token_stride, y(begin), problem.y.token_stride,
                    t_end - begin);
  }
}

// The sequences, or parts of them, in the rows of a task.
template <class T>
void convolve_block(const ConvBlock& block, const ConvSplit::Task& task) {
  const SequenceTable& sequences = block.problem.sequences;
  int64_t n = 0;  // the first sequence that begins in the task's rows
  for (int64_t end = sequences.count; n < end;) {
    const int64_t middle = n + (end - n) / 2;
    if (sequences.first_row(middle) < task.first_row) {
      n = middle + 1;
    } else {
      end = middle;
    }
  }
  if (n > 0) --n;
  for (; n < sequences.count; ++n) {
    const int64_t first = sequences.first_row(n);
    if (first >= task.end_row && !task.last) break;
    const int64_t t_begin = std::max<int64_t>(0, task.first_row - first);
    const int64_t t_end = std::min(sequences.at(n).length, task.end_row - first);
    if (t_begin == 0 || t_begin < t_end) convolve_sequence<T>(block, n, t_begin, t_end);
  }
}

inline void causal_conv1d(const CausalConv1dProblem& problem, const ConvSplit& split, int64_t i,
                          std::byte* memory) {
  const ConvSplit::Task task = split.task(i);
  const ConvScratch scratch(problem.shape, memory);
  TokenTensor y = problem.y;
  y.head_stride = 0;  // of no meaning here
  const bool past_caches = stores_past_caches(y, problem.shape.tokens * problem.shape.V);
  for (int64_t c = task.first_channel; c < task.end_channel; c += scratch.width) {
    const int64_t n = std::min(scratch.width, task.end_channel - c);
    load_channels({const_cast<std::byte*>(problem.weight.at(c)), problem.weight.dtype,
                   problem.weight.row_stride, problem.weight.column_stride},
                  n, problem.shape.K, scratch.packed, scratch.weight, scratch.width);
    if (problem.bias.given()) {
      gather(problem.bias.at(c), problem.bias.dtype, problem.bias.stride, n, scratch.bias);
    } else {
      std::fill_n(scratch.bias, n, 0.0f);
    }
    const ConvBlock block{problem, scratch, c, n, past_caches};
    with_element(problem.x.dtype,
                 [&](auto element) { convolve_block<decltype(element)>(block, task); });
  }
  if (past_caches) hwy::FlushStream();
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
