#include "reference/recurrent.h"

#include <cmath>

#include "reference/gating.h"
#include "reference/l2norm.h"
#include "reference/tasks.h"
#include "reference/tensor_io.h"
#include "reference/vector.h"

namespace gdn::reference {
namespace {

template <class Problem>
void load(const Problem& problem, const Sequence& s, int64_t t, int64_t head, Token* token) {
  const Shape& shape = problem.shape;
  const int64_t qk_head = head / (shape.value_heads / shape.heads);
  load_row(problem.q.at(s, t, qk_head), problem.q.dtype, shape.K, token->q.data());
  load_row(problem.k.at(s, t, qk_head), problem.k.dtype, shape.K, token->k.data());
  load_row(problem.v.at(s, t, head), problem.v.dtype, shape.V, token->v.data());
  if (problem.use_qk_l2norm) {
    l2norm(token->q.data(), shape.K, problem.l2norm_eps, token->q.data());
    l2norm(token->k.data(), shape.K, problem.l2norm_eps, token->k.data());
  }
  token->g = log_decay(problem.gates, s, t, head);
  token->beta = write_strength(problem.gates, s, t, head);
}

// A value head of sequence n.
template <class Sink>
void run_head(const DeltaRuleProblem& problem, int64_t n, int64_t head, Scratch* scratch,
              const Sink& sink) {
  const InitialState initial = problem.initial(n);
  if (initial.skip) {
    sink.skip(n, head);
    return;
  }
  double* state = scratch->state.data();
  load_state(initial.data, problem.initial_state.dtype, problem.shape, head, state);
  const Sequence s = problem.sequences.at(n);
  for (int64_t t = 0; t < s.length; ++t) {
    load_token(problem, s, t, head, &scratch->token);
    step(scratch->token, problem.scale, state, scratch->v_new.data(), scratch->out.data());
    sink.out(n, head, t, scratch->out.data());
    sink.inner_state(n, head, t, state);
  }
  sink.last_state(n, head, state);
}

}  // namespace

void step(const Token& token, double scale, double* state, double* v_new, double* out) {
  const auto K = static_cast<int64_t>(token.k.size());
  const auto V = static_cast<int64_t>(token.v.size());
  const double* q = token.q.data();
  const double* k = token.k.data();
  const double decay = std::exp(token.g);
  for (int64_t v = 0; v < V; ++v) {  // rows of the state do not meet
    double* row = state + v * K;
    for (int64_t i = 0; i < K; ++i) row[i] *= decay;
    v_new[v] = token.beta * (token.v[static_cast<size_t>(v)] - dot(row, k, K));
    add_scaled(v_new[v], k, K, row);
    out[v] = scale * dot(row, q, K);
  }
}

void fold(double g, const double* v_new, int64_t V, const double* k, int64_t K, double* state) {
  const double decay = std::exp(g);
  for (int64_t v = 0; v < V; ++v) {
    double* row = state + v * K;
    for (int64_t i = 0; i < K; ++i) row[i] *= decay;
    add_scaled(v_new[v], k, K, row);
  }
}

void load_token(const DeltaRuleProblem& problem, const Sequence& s, int64_t t, int64_t head,
                Token* token) {
  load(problem, s, t, head, token);
}
void load_token(const ReplayProblem& problem, const Sequence& s, int64_t t, int64_t head,
                Token* token) {
  load(problem, s, t, head, token);
}

Scratch::Scratch(const Shape& shape) {
  const auto K = static_cast<size_t>(shape.K), V = static_cast<size_t>(shape.V);
  token.q.resize(K);
  token.k.resize(K);
  token.v.resize(V);
  v_new.resize(V);
  out.resize(V);
  state.resize(V * K);
}

void recurrent(const DeltaRuleProblem& problem, int64_t n, int64_t head, Scratch* scratch) {
  run_head(problem, n, head, scratch, TensorSink(problem));
}

DeltaRuleResult recurrent(const DeltaRuleProblem& problem, const Request& request) {
  DeltaRuleResult result;
  const ResultSink sink(problem, request.token_states, &result);
  std::vector<Scratch> scratches(static_cast<size_t>(worker_count(request.executor)),
                                 Scratch(problem.shape));
  const int64_t HV = problem.shape.value_heads;
  run_tasks(request.executor, problem.sequences.count * HV, [&](int64_t task, int worker) {
    run_head(problem, task / HV, task % HV, &scratches[static_cast<size_t>(worker)], sink);
  });
  return result;
}

}  // namespace gdn::reference
