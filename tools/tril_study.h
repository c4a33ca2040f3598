// How the inverse of a chunk's system behaves: the iterative one step by step, and the exact one.
#pragma once

#include <string>
#include <vector>

#include "gdn/gdn.h"
#include "verify/inputs.h"

namespace gdn::tools {

// The unit lower triangular systems L = I + A of all sequences, value heads and chunks of a layer,
// and their inverses, in double, by the reference. A chunk's rows past the end of its sequence are
// those of the identity.
struct Systems {
  int64_t n = 0;                   // tokens of a chunk
  int64_t count = 0;               // matrices
  std::vector<double> L, inverse;  // [count,n,n]
  std::vector<double> decay;       // sum of g over each chunk that is full
};
Systems systems_of(const verify::DeltaRuleData& data, int64_t chunk, Executor* executor);

// What the systems are like, by the names of data/stats.json. Each list has a value a system, in
// ascending order.
struct SystemStatistics {
  std::vector<double> cumulative_g_full_chunk;  // one a full chunk: the sum of its g
  std::vector<double> inverse_abs_max;          // max |T|
  std::vector<double> inverse_offdiag_abs_max;  // the same off the diagonal
  std::vector<double> inverse_inf_norm;         // the largest sum of |T| over a row
  double inverse_sum_abs_offdiag_row_max = 0;   // of all systems: that sum without the diagonal
  double system_offdiag_abs_max = 0;            // of all systems: max |A|
};
SystemStatistics statistics_of(const Systems& systems);

// Over all systems, the largest and the median (the lower of the two in the middle, as in
// data/stats.json).
struct Spread {
  double max = 0, median = 0;
};
struct TrilRow {
  SolveMethod method = SolveMethod::kNeumann;
  int iterations = 0;  // of kNeumann; 0 is X = I
  Spread residual{};   // max |strict_lower(L X)| of a system, with L in double
  Spread rel_error{};  // |X - L^-1| / |L^-1|, Frobenius norms
  double abs_error_max = 0;
  double us_per_matrix = 0;  // 0: nothing ran
};

struct TrilSeries {
  std::string arithmetic;  // "fp32", "bf16", "bf16_mm"
  int64_t chunk = 0;
  int64_t systems = 0;
  std::vector<TrilRow> rows;  // neumann after 0, 1, ... iterations; then exact, but of bf16_mm
};

// L rounded to the dtype goes through solve_tril(); bfloat16 with Compute::kBF16 for neumann. Times
// are medians of calls over all systems that take min_time seconds together.
TrilSeries study_tril(Context& context, const Systems& systems, DType dtype, int max_iterations,
                      double min_time);

// The iteration as tensor cores would run it: the operands of both products rounded to bfloat16, X
// kept and updated in float32. No operator does this, so it is computed here, and not timed.
TrilSeries study_bf16_products(const Systems& systems, int max_iterations);

}  // namespace gdn::tools
