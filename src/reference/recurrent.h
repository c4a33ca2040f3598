// The definition of the delta rule, token by token in double: what every kernel and every test is
// measured by. Per value head, from state S in R^{V x K}:
//
//   S     <- exp(g) S
//   v_new <- beta (v - S k)
//   S     <- S + v_new k^T
//   o      = scale S q
#pragma once

#include <cstdint>
#include <vector>

#include "gdn/executor.h"
#include "problem.h"
#include "reference/results.h"

namespace gdn::reference {

// What one token shows to one value head, exactly as stored and then computed in double.
struct Token {
  std::vector<double> q, k;  // [K], l2-normalised where the call asks for it
  std::vector<double> v;     // [V]
  double g = 0;              // log-decay
  double beta = 1;           // write strength
};

// One step of one value head: updates state [V,K], writes v_new [V] and out [V].
void step(const Token& token, double scale, double* state, double* v_new, double* out);

// The part of a step that is left once v_new is known: S <- exp(g) S + v_new k^T.
void fold(double g, const double* v_new, int64_t V, const double* k, int64_t K, double* state);

// Token t of sequence s for a value head; of a DeltaRuleProblem or a ReplayProblem. `token` has
// vectors of the right sizes.
void load_token(const DeltaRuleProblem& problem, const Sequence& s, int64_t t, int64_t head,
                Token* token);
void load_token(const ReplayProblem& problem, const Sequence& s, int64_t t, int64_t head,
                Token* token);

// Memory of one task, so that a task itself allocates nothing.
struct Scratch {
  explicit Scratch(const Shape& shape);
  Token token;
  std::vector<double> v_new, out, state;  // [V], [V], [V,K]
};

struct Request {
  bool token_states = false;  // DeltaRuleResult::token_states
  Executor* executor = nullptr;
};

// The oracle. Reads the problem's inputs and initial states and writes none of its tensors, so it
// must run before a call that updates states in place. May throw std::bad_alloc.
DeltaRuleResult recurrent(const DeltaRuleProblem& problem, const Request& request = {});

// The operator, for one value head of sequence n: writes the problem's tensors, each element
// rounded once. Allocates nothing.
void recurrent(const DeltaRuleProblem& problem, int64_t n, int64_t head, Scratch* scratch);

}  // namespace gdn::reference
