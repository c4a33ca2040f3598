// Decay and write strength in double. Source: Mamba-2's decay as Hugging Face's
// Qwen3NextGatedDeltaNet uses it.
#pragma once

#include <cstdint>

#include "problem.h"

namespace gdn::reference {

// log(1 + exp(beta x)) / beta where beta x <= threshold, else x.
double softplus(double x, double beta, double threshold);

double sigmoid(double x);

// x sigmoid(x).
double silu(double x);

// g of a token and value head: given, or -exp(A_log) softplus(a + dt_bias). As it is: -inf means
// forget (exp(-inf) = 0), NaN stays NaN, nothing is clamped.
double log_decay(const GateInputs& gates, const Sequence& s, int64_t t, int64_t head);

// beta of a token and value head: given, or sigmoid(b), or 1; doubled by allow_neg_eigval.
double write_strength(const GateInputs& gates, const Sequence& s, int64_t t, int64_t head);

// The operator, for batch row `batch`.
void gating(const GatingProblem& problem, int64_t batch);

}  // namespace gdn::reference
