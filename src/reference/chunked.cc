#include "reference/chunked.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "reference/solve_tril.h"
#include "reference/tasks.h"
#include "reference/tensor_io.h"
#include "reference/vector.h"

namespace gdn::reference {
namespace {

std::vector<double> zeros(int64_t n) { return std::vector<double>(static_cast<size_t>(n)); }

// exp(G_i - G_j) for i >= j only: above the diagonal the difference may overflow.
double decay_between(const double* G, int64_t i, int64_t j) { return std::exp(G[i] - G[j]); }

// Y += X B, where X is [rows,C] and lower triangular, B [C,n]. Elements above the diagonal are not
// even multiplied, so that a NaN stays with the tokens after it.
void add_lower_product(const double* X, const double* B, int64_t C, int64_t n, double* Y) {
  for (int64_t i = 0; i < C; ++i) {
    for (int64_t j = 0; j <= i; ++j) add_scaled(X[i * C + j], B + j * n, n, Y + i * n);
  }
}

// tril(Q K^T o exp(G_i - G_j)) of a chunk.
void attention_of(const Preprocessed& x, int64_t chunk, double* attention) {
  const double* q = x.q.data() + chunk * x.C * x.K;
  const double* k = x.k.data() + chunk * x.C * x.K;
  const double* G = x.G.data() + chunk * x.C;
  for (int64_t i = 0; i < x.C; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      attention[i * x.C + j] = decay_between(G, i, j) * dot(q + i * x.K, k + j * x.K, x.K);
    }
  }
}

}  // namespace

Preprocessed preprocess(const DeltaRuleProblem& problem, int64_t n, int64_t head,
                        int64_t chunk_size) {
  const Sequence s = problem.sequences.at(n);
  Preprocessed x;
  x.length = s.length;
  x.C = chunk_size;
  x.chunks = (s.length + chunk_size - 1) / chunk_size;
  x.K = problem.shape.K;
  x.V = problem.shape.V;
  x.scale = problem.scale;
  const int64_t padded = x.chunks * x.C;
  x.q = zeros(padded * x.K);
  x.k = zeros(padded * x.K);
  x.v = zeros(padded * x.V);
  x.beta = zeros(padded);
  x.g = zeros(padded);
  x.G = zeros(padded);
  x.state = zeros(x.V * x.K);
  load_state(problem.initial(n).data, problem.initial_state.dtype, problem.shape, head,
             x.state.data());

  Scratch scratch(problem.shape);
  Token& token = scratch.token;
  for (int64_t t = 0; t < s.length; ++t) {
    load_token(problem, s, t, head, &token);
    std::copy(token.q.begin(), token.q.end(), x.q.begin() + t * x.K);
    std::copy(token.k.begin(), token.k.end(), x.k.begin() + t * x.K);
    std::copy(token.v.begin(), token.v.end(), x.v.begin() + t * x.V);
    x.beta[static_cast<size_t>(t)] = token.beta;
    x.g[static_cast<size_t>(t)] = token.g < kMinLogDecay ? kMinLogDecay : token.g;
  }
  for (int64_t chunk = 0; chunk < x.chunks; ++chunk) {
    double sum = 0;
    for (int64_t i = chunk * x.C; i < (chunk + 1) * x.C; ++i) {
      sum += x.g[static_cast<size_t>(i)];
      x.G[static_cast<size_t>(i)] = sum;
    }
  }
  return x;
}

PhaseA phase_a(const Preprocessed& x, SolveMethod method, int64_t iterations) {
  const int64_t C = x.C, K = x.K, V = x.V;
  PhaseA a;
  a.A = zeros(x.chunks * C * C);
  a.L = zeros(x.chunks * C * C);
  a.T = zeros(x.chunks * C * C);
  a.u = zeros(x.chunks * C * V);
  a.w = zeros(x.chunks * C * K);
  std::vector<double> scaled_v = zeros(C * V), scaled_k = zeros(C * K), buffer = zeros(C * C);
  for (int64_t chunk = 0; chunk < x.chunks; ++chunk) {
    const double* k = x.k.data() + chunk * C * K;
    const double* v = x.v.data() + chunk * C * V;
    const double* beta = x.beta.data() + chunk * C;
    const double* G = x.G.data() + chunk * C;
    double* A = a.A.data() + chunk * C * C;
    double* L = a.L.data() + chunk * C * C;
    double* T = a.T.data() + chunk * C * C;

    for (int64_t i = 0; i < C; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        A[i * C + j] = beta[i] * decay_between(G, i, j) * dot(k + i * K, k + j * K, K);
      }
    }

    std::copy_n(A, C * C, L);
    for (int64_t i = 0; i < C; ++i) L[i * C + i] = 1.0;

    if (method == SolveMethod::kExact) {
      invert_exact(L, C, T);
    } else {
      invert_neumann(L, C, iterations, T, buffer.data());
    }

    for (int64_t i = 0; i < C; ++i) {
      for (int64_t j = 0; j < V; ++j)
        scaled_v[static_cast<size_t>(i * V + j)] = beta[i] * v[i * V + j];
      const double strength = beta[i] * std::exp(G[i]);
      for (int64_t j = 0; j < K; ++j)
        scaled_k[static_cast<size_t>(i * K + j)] = strength * k[i * K + j];
    }
    add_lower_product(T, scaled_v.data(), C, V, a.u.data() + chunk * C * V);
    add_lower_product(T, scaled_k.data(), C, K, a.w.data() + chunk * C * K);
  }
  return a;
}

PhaseB phase_b_legacy(const Preprocessed& x, const PhaseA& a) {
  const int64_t C = x.C, K = x.K, V = x.V;
  PhaseB b;
  b.v_new = zeros(x.chunks * C * V);
  b.states = zeros((x.chunks + 1) * V * K);
  b.out = zeros(x.chunks * C * V);
  std::copy(x.state.begin(), x.state.end(), b.states.begin());
  std::vector<double> attention = zeros(C * C);
  for (int64_t chunk = 0; chunk < x.chunks; ++chunk) {
    const double* q = x.q.data() + chunk * C * K;
    const double* k = x.k.data() + chunk * C * K;
    const double* G = x.G.data() + chunk * C;
    const double* u = a.u.data() + chunk * C * V;
    const double* w = a.w.data() + chunk * C * K;
    const double* S0 = b.states.data() + chunk * V * K;
    double* S = b.states.data() + (chunk + 1) * V * K;
    double* v_new = b.v_new.data() + chunk * C * V;
    double* out = b.out.data() + chunk * C * V;

    for (int64_t i = 0; i < C; ++i) {
      for (int64_t v = 0; v < V; ++v) {
        v_new[i * V + v] = u[i * V + v] - dot(w + i * K, S0 + v * K, K);
      }
    }

    attention_of(x, chunk, attention.data());
    for (int64_t i = 0; i < C; ++i) {
      const double decay = std::exp(G[i]);
      for (int64_t v = 0; v < V; ++v) out[i * V + v] = decay * dot(q + i * K, S0 + v * K, K);
    }
    add_lower_product(attention.data(), v_new, C, V, out);
    for (int64_t i = 0; i < C * V; ++i) out[i] *= x.scale;

    const double decay = std::exp(G[C - 1]);
    for (int64_t i = 0; i < V * K; ++i) S[i] = decay * S0[i];
    for (int64_t i = 0; i < C; ++i) {
      const double rest = decay_between(G, C - 1, i);
      for (int64_t v = 0; v < V; ++v) add_scaled(rest * v_new[i * V + v], k + i * K, K, S + v * K);
    }
  }
  return b;
}

PhaseBOptimized phase_b_optimized(const Preprocessed& x, const PhaseA& a) {
  const int64_t C = x.C, K = x.K, V = x.V;
  PhaseBOptimized b;
  b.attention = zeros(x.chunks * C * C);
  b.core = zeros(x.chunks * C * V);
  b.carry = zeros(x.chunks * C * K);
  b.M = zeros(x.chunks * K * K);
  b.N = zeros(x.chunks * K * V);
  b.states = zeros((x.chunks + 1) * V * K);
  b.out = zeros(x.chunks * C * V);
  std::vector<double> attention_w = zeros(C * K);

  for (int64_t chunk = 0; chunk < x.chunks; ++chunk) {
    const double* q = x.q.data() + chunk * C * K;
    const double* k = x.k.data() + chunk * C * K;
    const double* G = x.G.data() + chunk * C;
    const double* u = a.u.data() + chunk * C * V;
    const double* w = a.w.data() + chunk * C * K;
    double* attention = b.attention.data() + chunk * C * C;
    double* core = b.core.data() + chunk * C * V;
    double* carry = b.carry.data() + chunk * C * K;
    double* M = b.M.data() + chunk * K * K;
    double* N = b.N.data() + chunk * K * V;

    attention_of(x, chunk, attention);

    add_lower_product(attention, u, C, V, core);
    for (int64_t i = 0; i < C * V; ++i) core[i] *= x.scale;

    std::fill(attention_w.begin(), attention_w.end(), 0.0);
    add_lower_product(attention, w, C, K, attention_w.data());
    for (int64_t i = 0; i < C; ++i) {
      const double decay = std::exp(G[i]);
      for (int64_t j = i * K; j < (i + 1) * K; ++j) {
        carry[j] = x.scale * (decay * q[j] - attention_w[static_cast<size_t>(j)]);
      }
    }

    for (int64_t i = 0; i < K; ++i) M[i * K + i] = std::exp(G[C - 1]);
    for (int64_t i = 0; i < C; ++i) {
      const double rest = decay_between(G, C - 1, i);
      for (int64_t j = 0; j < K; ++j) {
        const double k_ij = rest * k[i * K + j];
        add_scaled(-k_ij, w + i * K, K, M + j * K);  // R^T = K^T diag(exp(G_C - G)) w
        add_scaled(k_ij, u + i * V, V, N + j * V);
      }
    }
  }

  // The state as [K,V], for S^T is multiplied from the left.
  std::vector<double> S = zeros(K * V), next = zeros(K * V);
  const auto keep_state = [&](int64_t chunk) {
    for (int64_t v = 0; v < V; ++v) {
      for (int64_t i = 0; i < K; ++i) {
        b.states[static_cast<size_t>((chunk * V + v) * K + i)] = S[static_cast<size_t>(i * V + v)];
      }
    }
  };
  for (int64_t v = 0; v < V; ++v) {
    for (int64_t i = 0; i < K; ++i) {
      S[static_cast<size_t>(i * V + v)] = x.state[static_cast<size_t>(v * K + i)];
    }
  }
  keep_state(0);
  for (int64_t chunk = 0; chunk < x.chunks; ++chunk) {
    const double* carry = b.carry.data() + chunk * C * K;
    const double* M = b.M.data() + chunk * K * K;
    double* out = b.out.data() + chunk * C * V;
    std::copy_n(b.core.data() + chunk * C * V, C * V, out);
    for (int64_t i = 0; i < C; ++i) {
      for (int64_t j = 0; j < K; ++j) {
        add_scaled(carry[i * K + j], S.data() + j * V, V, out + i * V);
      }
    }
    std::copy_n(b.N.data() + chunk * K * V, K * V, next.data());
    for (int64_t i = 0; i < K; ++i) {
      for (int64_t j = 0; j < K; ++j) {
        add_scaled(M[i * K + j], S.data() + j * V, V, next.data() + i * V);
      }
    }
    S.swap(next);
    keep_state(chunk + 1);
  }
  return b;
}

namespace {

// What is kept of a value head's stages: all that the call stores, or that it follows from.
struct HeadResult {
  bool skip = false;
  int64_t length = 0;
  std::vector<double> out, last_state;     // [T,V], [V,K]
  std::vector<double> state, k, g, v_new;  // the initial state and the tokens, if states inside
                                           // are wanted; else empty
};

HeadResult run_stages(const DeltaRuleProblem& problem, int64_t n, int64_t head, int64_t chunk_size,
                      bool inner_states) {
  HeadResult result;
  result.skip = problem.initial(n).skip;
  if (result.skip) return result;
  Preprocessed x = preprocess(problem, n, head, chunk_size);
  PhaseB b = phase_b_legacy(x, phase_a(x));
  result.length = x.length;
  result.out = std::move(b.out);
  result.last_state.assign(b.states.end() - x.V * x.K, b.states.end());
  if (inner_states) {
    result.state = std::move(x.state);
    result.k = std::move(x.k);
    result.g = std::move(x.g);
    result.v_new = std::move(b.v_new);
  }
  return result;
}

// Hands a value head's results to a sink. States inside a chunk follow from v_new.
template <class Sink>
void deliver(const Shape& shape, int64_t n, int64_t head, HeadResult* result, const Sink& sink) {
  if (result->skip) {
    sink.skip(n, head);
    return;
  }
  const int64_t K = shape.K, V = shape.V;
  for (int64_t t = 0; t < result->length; ++t) {
    sink.out(n, head, t, result->out.data() + t * V);
    if (!sink.wants_inner_states()) continue;
    double* state = result->state.data();
    fold(result->g[static_cast<size_t>(t)], result->v_new.data() + t * V, V,
         result->k.data() + t * K, K, state);
    sink.inner_state(n, head, t, state);
  }
  sink.last_state(n, head, result->last_state.data());
}

}  // namespace

DeltaRuleResult chunked(const DeltaRuleProblem& problem, int64_t chunk_size,
                        const Request& request) {
  DeltaRuleResult all;
  const ResultSink sink(problem, request.token_states, &all);
  const int64_t HV = problem.shape.value_heads;
  run_tasks(request.executor, problem.sequences.count * HV, [&](int64_t task, int) {
    const int64_t n = task / HV, head = task % HV;
    HeadResult result = run_stages(problem, n, head, chunk_size, sink.wants_inner_states());
    deliver(problem.shape, n, head, &result, sink);
  });
  return all;
}

void chunk(const DeltaRuleProblem& problem, Executor* executor) {
  const TensorSink sink(problem);
  const int64_t HV = problem.shape.value_heads, tasks = problem.sequences.count * HV;
  std::vector<HeadResult> results(static_cast<size_t>(tasks));
  run_tasks(executor, tasks, [&](int64_t task, int) {
    results[static_cast<size_t>(task)] = run_stages(
        problem, task / HV, task % HV, problem.shape.chunk_size, sink.wants_inner_states());
  });
  run_tasks(executor, tasks, [&](int64_t task, int) {
    deliver(problem.shape, task / HV, task % HV, &results[static_cast<size_t>(task)], sink);
  });
}

}  // namespace gdn::reference
