#include "reference/replay.h"

#include <algorithm>

#include "reference/tasks.h"
#include "reference/tensor_io.h"

namespace gdn::reference {
namespace {

// Where the parts of record t of a slot begin.
std::byte* record_k(const ReplayProblem& p, int64_t slot, int64_t t, int64_t qk_head) {
  return p.record_k.at(slot, (t * p.shape.heads + qk_head) * p.shape.K);
}
std::byte* record_v(const ReplayProblem& p, int64_t slot, int64_t t, int64_t head) {
  return p.record_v.at(slot, (t * p.shape.value_heads + head) * p.shape.V);
}
std::byte* record_g(const ReplayProblem& p, int64_t slot, int64_t t, int64_t head) {
  return p.record_g.at(slot, t * p.shape.value_heads + head);
}

// One value head of a sequence whose slot is `slot`: on_committed(state) once the accepted records
// are folded in, then on_token(t, out, v_new, token) for every token to verify.
template <class OnCommitted, class OnToken>
void walk(const ReplayProblem& problem, int64_t n, int64_t slot, int64_t head, Scratch* scratch,
          const OnCommitted& on_committed, const OnToken& on_token) {
  const Shape& shape = problem.shape;
  const int64_t qk_head = head / (shape.value_heads / shape.heads);
  Token& token = scratch->token;
  double* state = scratch->state.data();
  double* v_new = scratch->v_new.data();
  load_state(problem.state.at(slot), problem.state.dtype, shape, head, state);
  for (int64_t t = 0; t < problem.num_accepted.at(n); ++t) {
    load_row(record_k(problem, slot, t, qk_head), problem.record_k.dtype, shape.K, token.k.data());
    load_row(record_v(problem, slot, t, head), problem.record_v.dtype, shape.V, v_new);
    const double g = load_float(record_g(problem, slot, t, head), problem.record_g.dtype);
    fold(g, v_new, shape.V, token.k.data(), shape.K, state);
  }
  on_committed(state);
  if (!problem.verifies()) return;
  const Sequence s = problem.sequences.at(n);
  for (int64_t t = 0; t < s.length; ++t) {
    load_token(problem, s, t, head, &token);
    step(token, problem.scale, state, v_new, scratch->out.data());
    on_token(t, scratch->out.data(), v_new, token);
  }
}

}  // namespace

void replay(const ReplayProblem& problem, int64_t n, int64_t qk_head, Scratch* scratch) {
  const Shape& shape = problem.shape;
  const int64_t group = shape.value_heads / shape.heads;
  const int64_t slot = problem.slot(n);
  const Sequence s = problem.sequences.at(n);
  for (int64_t head = qk_head * group; head < (qk_head + 1) * group; ++head) {
    if (slot < 0) {
      if (problem.verifies()) zero_columns(problem.out, s, head, 0, shape.V);
      continue;
    }
    // The keys of the old records serve the whole group, so its last head replaces them.
    const bool last = head == (qk_head + 1) * group - 1;
    walk(
        problem, n, slot, head, scratch,
        [&](const double* state) {
          store_state(state, shape, head, problem.state.at(slot), problem.state.dtype);
        },
        [&](int64_t t, const double* out, const double* v_new, const Token& token) {
          store_row(out, shape.V, problem.out.at(s, t, head), problem.out.dtype);
          store_row(v_new, shape.V, record_v(problem, slot, t, head), problem.record_v.dtype);
          store_rounded(record_g(problem, slot, t, head), problem.record_g.dtype, token.g);
          if (last) {
            store_row(token.k.data(), shape.K, record_k(problem, slot, t, qk_head),
                      problem.record_k.dtype);
          }
        });
  }
}

ReplayResult replay(const ReplayProblem& problem, Executor* executor) {
  const Shape& shape = problem.shape;
  const int64_t N = shape.sequences, M = problem.record_tokens;
  const int64_t H = shape.heads, HV = shape.value_heads, group = HV / H;
  const int64_t K = shape.K, V = shape.V;

  ReplayResult result;
  result.states.resize(static_cast<size_t>(N * HV * V * K));
  if (problem.verifies()) {
    result.out.resize(static_cast<size_t>(row_count(problem.sequences) * HV * V));
    result.record_k.resize(static_cast<size_t>(N * M * H * K));
    result.record_v.resize(static_cast<size_t>(N * M * HV * V));
    result.record_g.resize(static_cast<size_t>(N * M * HV));
  }

  std::vector<Scratch> scratches(static_cast<size_t>(worker_count(executor)), Scratch(shape));
  run_tasks(executor, N * HV, [&](int64_t task, int worker) {
    const int64_t n = task / HV, head = task % HV;
    const int64_t slot = problem.slot(n);
    if (slot < 0) return;
    const Sequence s = problem.sequences.at(n);
    const int64_t row = first_row(problem.sequences, s);
    walk(
        problem, n, slot, head, &scratches[static_cast<size_t>(worker)],
        [&](const double* state) {
          std::copy_n(state, V * K, result.states.data() + task * V * K);
        },
        [&](int64_t t, const double* out, const double* v_new, const Token& token) {
          std::copy_n(out, V, result.out.data() + ((row + t) * HV + head) * V);
          const int64_t record = n * M + t;
          std::copy_n(v_new, V, result.record_v.data() + (record * HV + head) * V);
          result.record_g[static_cast<size_t>(record * HV + head)] = token.g;
          if (head % group == 0) {
            std::copy_n(token.k.data(), K,
                        result.record_k.data() + (record * H + head / group) * K);
          }
        });
  });
  return result;
}

}  // namespace gdn::reference
