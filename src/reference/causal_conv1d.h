// The definition of the causal convolution in double, channel by channel:
//
//   y_t = activation(bias + sum over j < W of weight_j x_(t - W + 1 + j))
#pragma once

#include <cstdint>
#include <vector>

#include "problem.h"

namespace gdn::reference {

// What a call computes, not rounded, contiguous and in this order of axes. A row is a token of the
// tensors, as in DeltaRuleResult.
struct CausalConv1dResult {
  std::vector<double> out;           // [rows,D]; zero in skipped sequences and past the last one
  std::vector<double> final_states;  // [N,D,S]: after the last token; zero where skipped
  std::vector<double> token_states;  // [rows,D,S]: after each token; only with [N,M] indices
};

// The oracle. Reads the problem's inputs and initial states and writes none of its tensors, so it
// must run before a call that updates states in place. May throw std::bad_alloc.
CausalConv1dResult causal_conv1d(const CausalConv1dProblem& problem);

// Doubles that a task of the operator works in.
int64_t causal_conv1d_buffer(const Shape& shape);

// The operator, for sequence n: writes the problem's tensors, each element rounded once.
void causal_conv1d(const CausalConv1dProblem& problem, int64_t n, double* buffer);

}  // namespace gdn::reference
