// The definition of the delta rule, token by token in double: what every kernel and every test is
// measured by. Per value head, from state S in R^{V x K}:
//
//   S     <- exp(g) S
//   v_new <- beta (v - S k)
//   S     <- S + v_new k^T
//   o      = scale S q
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "gdn/executor.h"
#include "problem.h"

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

// After token t of a sequence: out [V], v_new [V] and the state [V,K], none of them rounded.
using OnToken =
    std::function<void(int64_t t, const double* out, const double* v_new, const double* state)>;

// A value head of sequence n, which is not padding. Leaves the last state in scratch->state.
void walk(const DeltaRuleProblem& problem, int64_t n, int64_t head, Scratch* scratch,
          const OnToken& on_token);

// What a call computes, not rounded to any tensor's dtype, contiguous and in this order of axes
// whatever the layout and the strides of the problem. A row is a token of the tensors, batch-major:
// token t of sequence s is row s.batch * row_length + s.begin + t, and there are B * T rows.
struct DeltaRuleResult {
  std::vector<double> out;           // [rows,HV,V]; zero in skipped sequences and past the last one
  std::vector<double> final_states;  // [N,HV,V,K]: after the last token; zero where skipped
  std::vector<double> token_states;  // [rows,HV,V,K]: after each token; empty unless requested
  std::vector<double> checkpoints;   // [M,HV,V,K], rows as checkpoint_cu numbers them; empty
                                     // without checkpoint_every
};

struct Request {
  bool token_states = false;
  Executor* executor = nullptr;
};

// The oracle. Reads the problem's inputs and initial states and writes none of its tensors, so it
// must run before a call that updates states in place. May throw std::bad_alloc.
DeltaRuleResult recurrent(const DeltaRuleProblem& problem, const Request& request = {});

// Rows of the tensors of tokens, B * T.
int64_t row_count(const SequenceTable& sequences);

}  // namespace gdn::reference
