#include "verify/causal_conv1d_run.h"

#include <utility>
#include <vector>

#include "check/check.h"
#include "reference/causal_conv1d.h"

namespace gdn::verify {
namespace {

std::vector<const Tensor*> inputs_of(const CausalConv1dData& d) {
  std::vector<const Tensor*> inputs = {&d.x,
                                       &d.weight,
                                       &d.bias,
                                       &d.cu_seqlens,
                                       &d.initial_state_indices,
                                       &d.final_state_indices,
                                       &d.has_initial_state,
                                       &d.num_accepted};
  if (d.about.states != States::kInPlace) inputs.push_back(&d.initial_state);
  return inputs;
}

}  // namespace

CausalConv1dExpected expect_causal_conv1d(const Case& c) {
  CausalConv1dExpected expected;
  expected.data = make_causal_conv1d(c);
  expected.input_hash = hash_of(inputs_of(expected.data));
  CausalConv1dProblem problem;
  expected.status = check(expected.data.args(), &problem);
  if (!expected.status.ok()) return expected;
  reference::CausalConv1dResult result = reference::causal_conv1d(problem);

  Wanted& y = expected.y;
  y.block_elements = c.D;
  const auto rows = static_cast<int64_t>(result.out.size()) / c.D;
  for (int64_t row = 0; row < rows; ++row) y.blocks.emplace_back(row, row * c.D);
  y.values = std::move(result.out);

  Wanted& states = expected.final_state;
  states.block_elements = c.D * c.state_length();
  if (!problem.final_state.given() || states.block_elements == 0) return expected;
  const auto add = [&](int64_t slot, const std::vector<double>& from, int64_t index) {
    if (slot < 0) return;
    states.blocks.emplace_back(slot, static_cast<int64_t>(states.values.size()));
    const auto begin = from.begin() + index * states.block_elements;
    states.values.insert(states.values.end(), begin, begin + states.block_elements);
  };
  for (int64_t n = 0; n < problem.sequences.count; ++n) {
    if (problem.read(n).skip) continue;
    const int64_t length = problem.sequences.at(n).length;
    if (!problem.stores_every_state()) {
      add(problem.written_slot(n), result.final_states, n);
      continue;
    }
    for (int64_t t = 0; t < length; ++t) {
      add(problem.written_slot(n, t), result.token_states, problem.sequences.first_row(n) + t);
    }
  }
  return expected;
}

Result run_causal_conv1d(Context& context, const CausalConv1dExpected& expected) {
  const CausalConv1dData& data = expected.data;
  CausalConv1dData fresh = data;
  fresh.y = data.y.clone();
  fresh.final_state = data.final_state.clone();
  if (data.about.states == States::kInPlace) fresh.initial_state = fresh.final_state;

  Result result;
  result.status = plan(context, fresh.args(), &result.plan);
  if (result.status.ok()) result.status = causal_conv1d(context, fresh.args());
  Comparer comparer(data.about, result.plan, &result);
  if (hash_of(inputs_of(data)) != expected.input_hash) comparer.defect("inputs", "were written");
  if (!result.status.ok()) {
    if (!same_memory(fresh.y, data.y) || !same_memory(fresh.final_state, data.final_state)) {
      comparer.defect("outputs", "were written by a call that failed");
    }
    return result;
  }
  comparer.compare("y", Quantity::kOutput, fresh.y, data.y, expected.y);
  if (data.final_state.given()) {
    comparer.compare("final_state", Quantity::kCopy, fresh.final_state, data.final_state,
                     expected.final_state);
  }
  return result;
}

}  // namespace gdn::verify
