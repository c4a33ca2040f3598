#include "reference/causal_conv1d.h"

#include <algorithm>

#include "half.h"
#include "reference/gating.h"
#include "reference/results.h"
#include "reference/rounding.h"

namespace gdn::reference {
namespace {

// How many inputs come before the first token: those of the state, of which there may be more or
// (without states) fewer than the convolution looks at.
int64_t history_length(const Shape& shape) { return std::max(shape.state_length, shape.K - 1); }

// A channel of a sequence that is not skipped: out(t, y) for every token, then state(t, inputs) for
// every state that is stored, whose S inputs these are; t < 0 is the state after the last token.
template <class Out, class State>
void run_channel(const CausalConv1dProblem& problem, int64_t n, int64_t channel, double* buffer,
                 const Out& out, const State& state) {
  const Shape& shape = problem.shape;
  const Sequence s = problem.sequences.at(n);
  const int64_t W = shape.K, S = shape.state_length;

  // All inputs in a row, the history first.
  double* tokens = buffer + history_length(shape);
  const int64_t slot = problem.initial_state.given() ? problem.read(n).slot : -1;
  const int64_t dropped = slot < 0 ? 0 : problem.dropped(n, s.length);
  std::fill(buffer, tokens, 0.0);
  for (int64_t i = 0; slot >= 0 && i < S - dropped; ++i) {
    tokens[i - (S - dropped)] =
        load_float(problem.initial_state.at(slot, channel, i), problem.initial_state.dtype);
  }
  for (int64_t t = 0; t < s.length; ++t) {
    tokens[t] =
        load_float(problem.x.at(s, t, 0) + channel * size_of(problem.x.dtype), problem.x.dtype);
  }

  const double bias =
      problem.bias.given() ? load_float(problem.bias.at(channel), problem.bias.dtype) : 0.0;
  for (int64_t t = 0; t < s.length; ++t) {
    double y = bias;
    for (int64_t j = 0; j < W; ++j) {
      y += load_float(problem.weight.at(channel, j), problem.weight.dtype) * tokens[t - W + 1 + j];
    }
    out(t, problem.silu ? silu(y) : y);
  }
  for (int64_t t = 0; problem.stores_every_state() && t < s.length; ++t) {
    state(t, tokens + t + 1 - S);
  }
  state(-1, tokens + s.length - S);
}

}  // namespace

int64_t causal_conv1d_buffer(const Shape& shape) {
  return history_length(shape) + shape.max_length;
}

void causal_conv1d(const CausalConv1dProblem& problem, int64_t n, double* buffer) {
  const Sequence s = problem.sequences.at(n);
  const int64_t D = problem.shape.V, S = problem.shape.state_length;
  if (problem.read(n).skip) {
    zero_columns(problem.y, s, 0, 0, D);
    return;
  }
  const auto store = [&](int64_t slot, int64_t channel, const double* inputs) {
    for (int64_t i = 0; slot >= 0 && i < S; ++i) {
      store_rounded(problem.final_state.at(slot, channel, i), problem.final_state.dtype, inputs[i]);
    }
  };
  for (int64_t channel = 0; channel < D; ++channel) {
    run_channel(
        problem, n, channel, buffer,
        [&](int64_t t, double y) {
          store_rounded(problem.y.at(s, t, 0) + channel * size_of(problem.y.dtype), problem.y.dtype,
                        y);
        },
        [&](int64_t t, const double* inputs) {
          if (!problem.final_state.given() || problem.stores_every_state() != (t >= 0)) return;
          store(problem.written_slot(n, t), channel, inputs);
        });
  }
}

CausalConv1dResult causal_conv1d(const CausalConv1dProblem& problem) {
  const int64_t D = problem.shape.V, S = problem.shape.state_length, N = problem.sequences.count;
  const int64_t rows = row_count(problem.sequences);
  CausalConv1dResult result;
  result.out.assign(static_cast<size_t>(rows * D), 0.0);
  result.final_states.assign(static_cast<size_t>(N * D * S), 0.0);
  result.token_states.assign(static_cast<size_t>(problem.stores_every_state() ? rows * D * S : 0),
                             0.0);
  std::vector<double> buffer(static_cast<size_t>(causal_conv1d_buffer(problem.shape)));
  for (int64_t n = 0; n < N; ++n) {
    if (problem.read(n).skip) continue;
    const int64_t first = first_row(problem.sequences, problem.sequences.at(n));
    for (int64_t channel = 0; channel < D; ++channel) {
      run_channel(
          problem, n, channel, buffer.data(),
          [&](int64_t t, double y) {
            result.out[static_cast<size_t>((first + t) * D + channel)] = y;
          },
          [&](int64_t t, const double* inputs) {
            double* to = t < 0 ? result.final_states.data() + (n * D + channel) * S
                               : result.token_states.data() + ((first + t) * D + channel) * S;
            std::copy_n(inputs, S, to);
          });
    }
  }
  return result;
}

}  // namespace gdn::reference
