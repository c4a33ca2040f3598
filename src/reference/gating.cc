#include "reference/gating.h"

#include <algorithm>
#include <cmath>

#include "half.h"
#include "reference/rounding.h"

namespace gdn::reference {
namespace {

double load(const TokenTensor& x, const Sequence& s, int64_t t, int64_t head) {
  return load_float(x.at(s, t, head), x.dtype);
}

double load(const FloatVector& x, int64_t i) { return load_float(x.at(i), x.dtype); }

}  // namespace

double softplus(double x, double beta, double threshold) {
  const double y = beta * x;
  if (y > threshold) return x;
  // log(1 + e^y) without the overflow of e^y; a NaN comes out of both terms.
  return (std::max(y, 0.0) + std::log1p(std::exp(-std::fabs(y)))) / beta;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

double silu(double x) { return x * sigmoid(x); }

double log_decay(const GateInputs& gates, const Sequence& s, int64_t t, int64_t head) {
  if (gates.g.given()) return load(gates.g, s, t, head);
  const double bias = gates.dt_bias.given() ? load(gates.dt_bias, head) : 0.0;
  const double x = load(gates.a, s, t, head) + bias;
  return -std::exp(load(gates.A_log, head)) *
         softplus(x, gates.softplus_beta, gates.softplus_threshold);
}

double write_strength(const GateInputs& gates, const Sequence& s, int64_t t, int64_t head) {
  double beta = 1.0;
  if (gates.beta.given()) {
    beta = load(gates.beta, s, t, head);
  } else if (gates.b.given()) {
    beta = sigmoid(load(gates.b, s, t, head));
  }
  return gates.allow_neg_eigval ? 2.0 * beta : beta;
}

void gating(const GatingProblem& problem, int64_t batch) {
  const Sequence row{batch, 0, problem.shape.max_length};
  for (int64_t t = 0; t < row.length; ++t) {
    for (int64_t head = 0; head < problem.shape.value_heads; ++head) {
      store_rounded(problem.g.at(row, t, head), problem.g.dtype,
                    log_decay(problem.gates, row, t, head));
      if (!problem.beta.given()) continue;
      store_rounded(problem.beta.at(row, t, head), problem.beta.dtype,
                    write_strength(problem.gates, row, t, head));
    }
  }
}

}  // namespace gdn::reference
