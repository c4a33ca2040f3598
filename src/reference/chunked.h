// The chunked form of the delta rule, one stage after another in double, every intermediate on
// hand. It equals the recurrence (recurrent.h) in exact arithmetic. One sequence and one value head
// at a time; tokens are cut into chunks of C from the sequence's first token on.
//
// In a chunk that starts from state S0, with G_i = g_1 + ... + g_i inside the chunk, the recurrence
// unrolls to
//
//   v_new_i = beta_i (v_i - exp(G_i) S0 k_i - sum_{j<i} exp(G_i - G_j) (k_i . k_j) v_new_j)
//
// a unit lower triangular system: (I + A) V_new = diag(beta) (V - diag(exp G) K S0^T).
//
//   preprocess   q, k, v, beta, G of the chunks, the last one padded
//   phase A      A, L = I + A, T = L^-1, u, w      per chunk, without the state
//   phase B      v_new, states, out                chunk after chunk; two forms
#pragma once

#include <cstdint>
#include <vector>

#include "gdn/executor.h"
#include "gdn/ops.h"
#include "problem.h"
#include "reference/recurrent.h"

namespace gdn::reference {

// g below this is replaced by it before the cumulative sum, so that a difference of sums keeps the
// digits of the small gates, and is no -inf - -inf. exp(-150) is 0 in float32 and 7e-66 in double:
// the state is forgotten either way. NaN stays NaN.
constexpr double kMinLogDecay = -150.0;

struct Preprocessed {
  int64_t length = 0;  // T of the sequence
  int64_t C = 0;       // tokens of a chunk
  int64_t chunks = 0;  // ceil(T / C)
  int64_t K = 0, V = 0;
  double scale = 1;
  std::vector<double> q, k;  // [chunks,C,K] of the value head's q/k head, l2-normalised if asked
                             // for; zero in padding
  std::vector<double> v;     // [chunks,C,V]; zero in padding
  std::vector<double> beta;  // [chunks,C]; zero in padding: such a token writes nothing
  std::vector<double> g;     // [chunks,C], not below kMinLogDecay; zero in padding
  std::vector<double> G;  // [chunks,C]: sum of g from the chunk's start; padding repeats the last
                          // token's, so that nothing decays past the end
  std::vector<double> state;  // [V,K]: initial
};
Preprocessed preprocess(const DeltaRuleProblem& problem, int64_t n, int64_t head,
                        int64_t chunk_size);

struct PhaseA {
  std::vector<double> A;  // [chunks,C,C]: beta_i exp(G_i - G_j) (k_i . k_j) where i > j, else 0
  std::vector<double> L;  // [chunks,C,C] = I + A
  std::vector<double> T;  // [chunks,C,C] = L^-1
  std::vector<double> u;  // [chunks,C,V] = T diag(beta) V
  std::vector<double> w;  // [chunks,C,K] = T diag(beta exp G) K
};
PhaseA phase_a(const Preprocessed& x, SolveMethod method = SolveMethod::kExact,
               int64_t iterations = 14);

struct PhaseB {
  std::vector<double> v_new;   // [chunks,C,V] = u - w S0^T
  std::vector<double> states;  // [chunks + 1,V,K]: before every chunk, and the last
  std::vector<double> out;     // [chunks,C,V]; rows of padding mean nothing
};
// Chunk after chunk:
//   V_new = u - w S0^T
//   out   = scale (diag(exp G) Q S0^T + tril(Q K^T o exp(G_i - G_j)) V_new)
//   S'    = exp(G_C) S0 + (diag(exp(G_C - G)) V_new)^T K
PhaseB phase_b_legacy(const Preprocessed& x, const PhaseA& a);

struct PhaseBOptimized {
  std::vector<double> attention;  // [chunks,C,C] = tril(Q K^T o exp(G_i - G_j))
  std::vector<double> core;       // [chunks,C,V] = scale attention u
  std::vector<double> carry;      // [chunks,C,K] = scale (diag(exp G) Q - attention w): C
  std::vector<double> M;          // [chunks,K,K] = exp(G_C) I - R^T, R = (diag(exp(G_C - G)) w)^T K
  std::vector<double> N;          // [chunks,K,V] = K^T diag(exp(G_C - G)) u
  std::vector<double> states;     // [chunks + 1,V,K], as in PhaseB
  std::vector<double> out;        // [chunks,C,V], as in PhaseB
};
// All that does not need the state first; then, on S^T in R^{K x V}, chunk after chunk:
//   out   = core + carry S0^T
//   S'^T  = M S0^T + N
PhaseBOptimized phase_b_optimized(const Preprocessed& x, const PhaseA& a);

// A call's result by the stages (exact inverse, legacy phase B), as reference::recurrent() gives
// it. States inside a chunk follow from v_new by S <- exp(g) S + v_new k^T.
DeltaRuleResult chunked(const DeltaRuleProblem& problem, int64_t chunk_size,
                        const Request& request = {});

// The operator: computes everything, then stores it, so that a failed allocation leaves every
// tensor as it was.
void chunk(const DeltaRuleProblem& problem, Executor* executor);

}  // namespace gdn::reference
