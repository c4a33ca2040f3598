#include "verify/run.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

#include "check/check.h"
#include "reference/recurrent.h"
#include "reference/replay.h"
#include "verify/causal_conv1d_run.h"
#include "verify/wanted.h"

namespace gdn::verify {
namespace {

// A log-decay below forgets the whole state in float32, whatever it is.
constexpr double kForgets = -150;

std::vector<const Tensor*> inputs_of(const DeltaRuleData& d) {
  std::vector<const Tensor*> inputs = {&d.q,
                                       &d.k,
                                       &d.v,
                                       &d.g,
                                       &d.A_log,
                                       &d.a,
                                       &d.dt_bias,
                                       &d.beta,
                                       &d.b,
                                       &d.cu_seqlens,
                                       &d.initial_state_indices,
                                       &d.final_state_indices,
                                       &d.has_initial_state,
                                       &d.num_accepted,
                                       &d.checkpoint_cu};
  if (d.about.states != States::kInPlace) inputs.push_back(&d.initial_state);
  return inputs;
}

std::vector<const Tensor*> inputs_of(const ReplayData& d) {
  return {&d.q,
          &d.k,
          &d.v,
          &d.g,
          &d.A_log,
          &d.a,
          &d.dt_bias,
          &d.beta,
          &d.b,
          &d.cu_seqlens,
          &d.state_indices,
          &d.num_accepted,
          &d.commit_accepted};
}

// A state [HV,V,K] as the layout orders it.
void append_state(const double* state, const Case& c, std::vector<double>* values) {
  for (int64_t h = 0; h < c.HV; ++h) {
    const double* head = state + h * c.V * c.K;
    if (c.layout == StateLayout::kVK) {
      values->insert(values->end(), head, head + c.V * c.K);
      continue;
    }
    for (int64_t j = 0; j < c.K; ++j) {
      for (int64_t i = 0; i < c.V; ++i) values->push_back(head[i * c.K + j]);
    }
  }
}

Wanted wanted_out(std::vector<double> out, const Case& c) {
  Wanted wanted;
  wanted.block_elements = c.HV * c.V;
  wanted.zero_run = c.V;
  const auto rows = static_cast<int64_t>(out.size()) / wanted.block_elements;
  for (int64_t row = 0; row < rows; ++row)
    wanted.blocks.emplace_back(row, row * wanted.block_elements);
  wanted.values = std::move(out);
  return wanted;
}

// Blocks of states.
class StateCollector {
 public:
  explicit StateCollector(const Case& c) : c_(c) {
    wanted_.block_elements = c.HV * c.V * c.K;
    wanted_.zero_run = c.V * c.K;
  }
  void add(int64_t slot, const double* state) {
    wanted_.blocks.emplace_back(slot, static_cast<int64_t>(wanted_.values.size()));
    append_state(state, c_, &wanted_.values);
  }
  Wanted take() { return std::move(wanted_); }

 private:
  const Case& c_;
  Wanted wanted_;
};

Status plan_of(const Context& context, const DeltaRuleData& data, Plan* result) {
  return data.about.op == Operator::kRecurrent ? plan(context, data.recurrent_args(), result)
                                               : plan(context, data.chunk_args(), result);
}

}  // namespace

struct Expected::Impl {
  Case about;
  Status status;  // of the checks: nothing is expected unless it is ok
  uint64_t input_hash = 0;

  DeltaRuleData data;
  Wanted out, final_state, checkpoints;

  CausalConv1dExpected conv;

  ReplayData replay_data;
  Wanted replay_out, replay_state, record_k, record_v, record_g;

  void expect_delta_rule();
  void expect_replay();
  Result run_delta_rule(Context& context) const;
  Result run_replay(Context& context) const;
};

void Expected::Impl::expect_delta_rule() {
  input_hash = hash_of(inputs_of(data));
  DeltaRuleProblem problem;
  status = about.op == Operator::kRecurrent ? check(data.recurrent_args(), &problem)
                                            : check(data.chunk_args(), &problem);
  if (!status.ok()) return;
  reference::DeltaRuleResult result =
      reference::recurrent(problem, {.token_states = problem.stores_every_state()});
  const int64_t elements = about.HV * about.V * about.K;
  const auto slot_of = [&](const std::byte* p, const SlotTensor& tensor) {
    return (p - tensor.data) / (tensor.slot_stride * size_of(tensor.dtype));
  };
  StateCollector finals(about), checkpoint_states(about);
  for (int64_t n = 0; n < problem.sequences.count; ++n) {
    if (problem.initial(n).skip) continue;
    const Sequence s = problem.sequences.at(n);
    const int64_t row = s.batch * problem.sequences.row_length + s.begin;
    for (int64_t t = 0; problem.stores_every_state() && t < s.length; ++t) {
      const std::byte* p = problem.final_slot(n, t);
      const double* state = result.token_states.data() + (row + t) * elements;
      if (p != nullptr) finals.add(slot_of(p, problem.final_state), state);
    }
    if (!problem.stores_every_state()) {
      const std::byte* p = problem.final_slot(n);
      const double* state = result.final_states.data() + n * elements;
      if (p != nullptr) finals.add(slot_of(p, problem.final_state), state);
    }
    if (problem.checkpoint_every == 0) continue;
    for (int64_t j = 0; j < s.length / problem.checkpoint_every; ++j) {
      const int64_t checkpoint = problem.checkpoint_cu.at(n) + j;
      checkpoint_states.add(checkpoint, result.checkpoints.data() + checkpoint * elements);
    }
  }
  out = wanted_out(std::move(result.out), about);
  final_state = finals.take();
  checkpoints = checkpoint_states.take();
}

Result Expected::Impl::run_delta_rule(Context& context) const {
  Result result;
  DeltaRuleData fresh = data;
  fresh.out = data.out.clone();
  fresh.final_state = data.final_state.clone();
  fresh.checkpoints = data.checkpoints.clone();
  if (about.states == States::kInPlace) fresh.initial_state = fresh.final_state;

  result.status = plan_of(context, fresh, &result.plan);
  if (result.status.ok()) result.status = call(context, fresh);
  Comparer comparer(about, result.plan, &result);
  if (hash_of(inputs_of(data)) != input_hash) comparer.defect("inputs", "were written");
  if (!result.status.ok()) {
    if (!same_memory(fresh.out, data.out) || !same_memory(fresh.final_state, data.final_state) ||
        !same_memory(fresh.checkpoints, data.checkpoints)) {
      comparer.defect("outputs", "were written by a call that failed");
    }
    return result;
  }
  comparer.compare("out", Quantity::kOutput, fresh.out, data.out, out);
  if (data.final_state.given()) {
    comparer.compare("final_state", Quantity::kState, fresh.final_state, data.final_state,
                     final_state);
  }
  if (data.checkpoints.given()) {
    comparer.compare("checkpoints", Quantity::kState, fresh.checkpoints, data.checkpoints,
                     checkpoints);
  }
  return result;
}

void Expected::Impl::expect_replay() {
  input_hash = hash_of(inputs_of(replay_data));
  ReplayProblem problem;
  status = check(replay_data.verify_args(), &problem);
  if (!status.ok()) return;
  reference::ReplayResult result = reference::replay(problem);
  const int64_t M = problem.record_tokens;
  StateCollector states(about);
  const auto add_records = [&](const std::vector<double>& all, int64_t width, int64_t zero_run,
                               Wanted* wanted) {
    wanted->block_elements = width;
    wanted->zero_run = zero_run;
    for (int64_t n = 0; n < problem.sequences.count; ++n) {
      if (problem.slot(n) < 0) continue;
      for (int64_t t = 0; t < problem.sequences.at(n).length; ++t) {
        wanted->blocks.emplace_back(problem.slot(n) * M + t, (n * M + t) * width);
      }
    }
    wanted->values = all;
  };
  for (int64_t n = 0; n < problem.sequences.count; ++n) {
    if (problem.slot(n) < 0) continue;
    states.add(problem.slot(n), result.states.data() + n * about.HV * about.V * about.K);
  }
  add_records(result.record_k, about.H * about.K, about.K, &record_k);
  add_records(result.record_v, about.HV * about.V, about.V, &record_v);
  add_records(result.record_g, about.HV, 1, &record_g);
  record_g.floor = kForgets;
  replay_state = states.take();
  replay_out = wanted_out(std::move(result.out), about);
}

Result Expected::Impl::run_replay(Context& context) const {
  Result result;
  ReplayData fresh = replay_data;
  fresh.out = replay_data.out.clone();
  fresh.state = replay_data.state.clone();
  fresh.record_k = replay_data.record_k.clone();
  fresh.record_v = replay_data.record_v.clone();
  fresh.record_g = replay_data.record_g.clone();

  result.status = plan(context, fresh.verify_args(), &result.plan);
  if (result.status.ok()) result.status = replay_verify(context, fresh.verify_args());
  Comparer comparer(about, result.plan, &result);
  if (!result.status.ok()) {
    if (!same_memory(fresh.out, replay_data.out) || !same_memory(fresh.state, replay_data.state) ||
        !same_memory(fresh.record_k, replay_data.record_k) ||
        !same_memory(fresh.record_v, replay_data.record_v) ||
        !same_memory(fresh.record_g, replay_data.record_g)) {
      comparer.defect("outputs", "were written by a call that failed");
    }
    return result;
  }
  comparer.compare("out", Quantity::kOutput, fresh.out, replay_data.out, replay_out);
  comparer.compare("state", Quantity::kState, fresh.state, replay_data.state, replay_state);
  comparer.compare("record_k", Quantity::kState, fresh.record_k, replay_data.record_k, record_k);
  comparer.compare("record_v", Quantity::kState, fresh.record_v, replay_data.record_v, record_v);
  comparer.compare("record_g", Quantity::kState, fresh.record_g, replay_data.record_g, record_g);

  // The commit is measured from what the verification stored.
  const Tensor state_before = fresh.state.clone(), k_before = fresh.record_k.clone(),
               v_before = fresh.record_v.clone(), g_before = fresh.record_g.clone();
  ReplayProblem problem;
  result.status = check(fresh.commit_args(), &problem);
  if (!result.status.ok()) return result;
  const reference::ReplayResult committed = reference::replay(problem);
  StateCollector states(about);
  for (int64_t n = 0; n < problem.sequences.count; ++n) {
    if (problem.slot(n) < 0) continue;
    states.add(problem.slot(n), committed.states.data() + n * about.HV * about.V * about.K);
  }
  result.status = replay_commit(context, fresh.commit_args());
  if (!result.status.ok()) return result;
  comparer.compare("committed state", Quantity::kState, fresh.state, state_before, states.take());
  if (!same_memory(fresh.record_k, k_before) || !same_memory(fresh.record_v, v_before) ||
      !same_memory(fresh.record_g, g_before)) {
    comparer.defect("records", "were written by the commit");
  }
  if (hash_of(inputs_of(replay_data)) != input_hash) comparer.defect("inputs", "were written");
  return result;
}

Expected::Expected(const Case& c) {
  auto impl = std::make_shared<Impl>();
  impl->about = c;
  if (c.op == Operator::kCausalConv1d) {
    impl->conv = expect_causal_conv1d(c);
    impl->status = impl->conv.status;
  } else if (c.op == Operator::kReplay) {
    impl->replay_data = make_replay(c);
    impl->expect_replay();
  } else {
    impl->data = make_delta_rule(c);
    impl->expect_delta_rule();
  }
  impl_ = std::move(impl);
}

Expected::Expected(DeltaRuleData data) {
  auto impl = std::make_shared<Impl>();
  impl->about = data.about;
  impl->data = std::move(data);
  impl->expect_delta_rule();
  impl_ = std::move(impl);
}

const Case& Expected::about() const { return impl_->about; }

Result Expected::run(Context& context) const {
  if (!impl_->status.ok()) {
    Result result;
    result.status = impl_->status;
    return result;
  }
  switch (impl_->about.op) {
    case Operator::kCausalConv1d:
      return run_causal_conv1d(context, impl_->conv);
    case Operator::kReplay:
      return impl_->run_replay(context);
    case Operator::kChunk:
    case Operator::kRecurrent:
      break;
  }
  return impl_->run_delta_rule(context);
}

Status call(Context& context, const DeltaRuleData& data) {
  return data.about.op == Operator::kRecurrent ? recurrent(context, data.recurrent_args())
                                               : chunk(context, data.chunk_args());
}

Result run(Context& context, const Case& c) { return Expected(c).run(context); }

double Comparison::relative_error() const { return error == 0 ? 0 : error / norm; }
double Comparison::relative_bound() const { return bound == 0 ? 0 : bound / norm; }

bool Result::ok() const {
  return status.ok() && defects.empty() &&
         std::all_of(comparisons.begin(), comparisons.end(),
                     [](const Comparison& comparison) { return comparison.ok(); });
}

std::string repeat_line(const Case& c, const Context& context) {
  std::string line = "gdn verify";
  if (context.kernel != nullptr) line.append(" --kernel ").append(context.kernel);
  if (context.executor != nullptr) {
    line.append(" --threads ").append(std::to_string(context.executor->max_workers()));
  }
  return line.append(" --case \"").append(to_string(c)).append("\"");
}

std::string describe(const Result& result, const Case& c, const Context& context) {
  std::string text;
  if (!result.status.ok()) text.append("  ").append(result.status.message()).append("\n");
  for (const Comparison& comparison : result.comparisons) {
    char line[160];
    std::snprintf(line, sizeof line, "  %-16s error %.3e  bound %.3e  norm %.3e  %s\n",
                  comparison.tensor.c_str(), comparison.relative_error(),
                  comparison.relative_bound(), comparison.norm,
                  comparison.ok() ? "ok" : "TOO LARGE");
    text.append(line);
  }
  for (const std::string& defect : result.defects) text.append("  ").append(defect).append("\n");
  return text.append("  ").append(repeat_line(c, context)).append("\n");
}

}  // namespace gdn::verify
