// Where the outputs and states of a delta-rule call go: rounded to the call's tensors, or as they
// are to vectors. Both sinks take the same four calls, so that the recurrence and the chunked form
// are each written once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "problem.h"
#include "reference/tensor_io.h"

namespace gdn::reference {

// What a call computes, not rounded to any tensor's dtype, contiguous and in this order of axes
// whatever the layout and the strides of the problem. A row is a token of the tensors, batch-major:
// token t of sequence s is row s.batch * T + s.begin + t, and there are B * T rows.
struct DeltaRuleResult {
  std::vector<double> out;           // [rows,HV,V]; zero in skipped sequences and past the last one
  std::vector<double> final_states;  // [N,HV,V,K]: after the last token; zero where skipped
  std::vector<double> token_states;  // [rows,HV,V,K]: after each token; empty unless requested
  std::vector<double> checkpoints;   // [M,HV,V,K], rows as checkpoint_cu numbers them; empty
                                     // without checkpoint_every
};

// Rows of the tensors of tokens, B * T.
inline int64_t row_count(const SequenceTable& sequences) {
  return sequences.cu_seqlens.given() ? sequences.row_length
                                      : sequences.count * sequences.row_length;
}
// The row of a sequence's first token.
inline int64_t first_row(const SequenceTable& sequences, const Sequence& s) {
  return s.batch * sequences.row_length + s.begin;
}

// If token t ends a checkpoint's stretch, the number of that checkpoint in its sequence; else -1.
inline int64_t checkpoint_after(const DeltaRuleProblem& problem, int64_t t) {
  const int64_t every = problem.checkpoint_every;
  return every > 0 && (t + 1) % every == 0 ? (t + 1) / every - 1 : -1;
}

// The tensors of the call; every store rounds once. Allocates nothing.
class TensorSink {
 public:
  explicit TensorSink(const DeltaRuleProblem& problem) : p_(problem) {}

  bool wants_inner_states() const {
    return p_.checkpoint_every > 0 || (p_.final_state.given() && p_.stores_every_state());
  }
  void skip(int64_t n, int64_t head) const {
    zero_columns(p_.out, p_.sequences.at(n), head, 0, p_.shape.V);
  }
  void out(int64_t n, int64_t head, int64_t t, const double* out) const {
    store_row(out, p_.shape.V, p_.out.at(p_.sequences.at(n), t, head), p_.out.dtype);
  }
  void inner_state(int64_t n, int64_t head, int64_t t, const double* state) const {
    if (p_.stores_every_state()) {
      store_state(state, p_.shape, head, p_.final_slot(n, t), p_.final_state.dtype);
    }
    if (const int64_t j = checkpoint_after(p_, t); j >= 0) {
      store_state(state, p_.shape, head, p_.checkpoint(n, j), p_.checkpoints.dtype);
    }
  }
  void last_state(int64_t n, int64_t head, const double* state) const {
    if (p_.stores_every_state()) return;
    store_state(state, p_.shape, head, p_.final_slot(n), p_.final_state.dtype);
  }

 private:
  const DeltaRuleProblem& p_;
};

// Vectors of doubles.
class ResultSink {
 public:
  ResultSink(const DeltaRuleProblem& problem, bool token_states, DeltaRuleResult* result)
      : p_(problem),
        HV_(problem.shape.value_heads),
        V_(problem.shape.V),
        VK_(problem.shape.V * problem.shape.K),
        token_states_(token_states),
        result_(*result) {
    const int64_t rows = row_count(p_.sequences), N = p_.sequences.count;
    const int64_t checkpoints = p_.checkpoint_every > 0 ? p_.checkpoint_cu.at(N) : 0;
    result_.out.assign(static_cast<size_t>(rows * HV_ * V_), 0.0);
    result_.final_states.assign(static_cast<size_t>(N * HV_ * VK_), 0.0);
    result_.token_states.assign(static_cast<size_t>(token_states ? rows * HV_ * VK_ : 0), 0.0);
    result_.checkpoints.assign(static_cast<size_t>(checkpoints * HV_ * VK_), 0.0);
  }

  bool wants_inner_states() const { return token_states_ || p_.checkpoint_every > 0; }
  void skip(int64_t, int64_t) const {}
  void out(int64_t n, int64_t head, int64_t t, const double* out) const {
    std::copy_n(out, V_, result_.out.data() + (row(n, t) * HV_ + head) * V_);
  }
  void inner_state(int64_t n, int64_t head, int64_t t, const double* state) const {
    if (token_states_) {
      std::copy_n(state, VK_, result_.token_states.data() + (row(n, t) * HV_ + head) * VK_);
    }
    if (const int64_t j = checkpoint_after(p_, t); j >= 0) {
      const int64_t checkpoint = p_.checkpoint_cu.at(n) + j;
      std::copy_n(state, VK_, result_.checkpoints.data() + (checkpoint * HV_ + head) * VK_);
    }
  }
  void last_state(int64_t n, int64_t head, const double* state) const {
    std::copy_n(state, VK_, result_.final_states.data() + (n * HV_ + head) * VK_);
  }

 private:
  int64_t row(int64_t n, int64_t t) const {
    return first_row(p_.sequences, p_.sequences.at(n)) + t;
  }

  const DeltaRuleProblem& p_;
  const int64_t HV_, V_, VK_;
  const bool token_states_;
  DeltaRuleResult& result_;
};

}  // namespace gdn::reference
