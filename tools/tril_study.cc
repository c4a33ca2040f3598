#include "tril_study.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "check/check.h"
#include "command.h"
#include "reference/chunked.h"
#include "reference/solve_tril.h"
#include "reference/tasks.h"
#include "stopwatch.h"
#include "verify/tensor.h"

namespace gdn::tools {
namespace {

using verify::Tensor;

Spread spread_of(std::vector<double> values) {
  Spread spread;
  for (double value : values) {  // a NaN is the largest
    if (!(value <= spread.max)) spread.max = value;
    if (std::isnan(value)) return {value, value};
  }
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  spread.median = *middle;
  return spread;
}

void measure_errors(const Systems& systems, const Tensor& inverse, TrilRow* row) {
  const auto count = static_cast<size_t>(systems.count);
  const int64_t n = systems.n;
  const std::vector<double> X = inverse.to_doubles();
  std::vector<double> residuals(count), errors(count);
  for (int64_t m = 0; m < systems.count; ++m) {
    const double* L = systems.L.data() + m * n * n;
    const double* T = systems.inverse.data() + m * n * n;
    const double* x = X.data() + m * n * n;
    residuals[static_cast<size_t>(m)] = reference::residual(L, x, n);
    double error = 0, norm = 0;
    for (int64_t i = 0; i < n * n; ++i) {
      const double difference = std::fabs(x[i] - T[i]);
      error += difference * difference;
      norm += T[i] * T[i];
      if (!(difference <= row->abs_error_max)) row->abs_error_max = difference;
    }
    errors[static_cast<size_t>(m)] = std::sqrt(error / norm);
  }
  row->residual = spread_of(std::move(residuals));
  row->rel_error = spread_of(std::move(errors));
}

double median_seconds(Context& context, const SolveTrilArgs& args, double min_time) {
  const size_t min_calls = min_time > 0 ? 3 : 1;
  std::vector<double> seconds;
  double total = 0;
  while (seconds.size() < min_calls || total < min_time) {
    const Stopwatch watch;
    require(solve_tril(context, args));
    seconds.push_back(watch.seconds());
    total += seconds.back();
  }
  return quantiles(std::move(seconds)).median;
}

}  // namespace

Systems systems_of(const verify::DeltaRuleData& data, int64_t chunk, Executor* executor) {
  DeltaRuleProblem problem;
  require(check(data.chunk_args(), &problem));
  const int64_t HV = problem.shape.value_heads, tasks = problem.sequences.count * HV;
  std::vector<reference::PhaseA> stages(static_cast<size_t>(tasks));
  reference::run_tasks(executor, tasks, [&](int64_t task, int) {
    stages[static_cast<size_t>(task)] =
        reference::phase_a(reference::preprocess(problem, task / HV, task % HV, chunk));
  });
  Systems systems;
  systems.n = chunk;
  for (const reference::PhaseA& stage : stages) {
    systems.L.insert(systems.L.end(), stage.L.begin(), stage.L.end());
    systems.inverse.insert(systems.inverse.end(), stage.T.begin(), stage.T.end());
  }
  systems.count = static_cast<int64_t>(systems.L.size()) / (chunk * chunk);
  if (systems.count == 0) throw Mistake("there is no token, and so no chunk to study");
  return systems;
}

TrilSeries study_tril(Context& context, const Systems& systems, DType dtype, int max_iterations,
                      double min_time) {
  const std::vector<int64_t> shape = {systems.count, systems.n, systems.n};
  Tensor lower(dtype, shape), inverse(dtype, shape);
  lower.from_doubles(systems.L);
  SolveTrilArgs args;
  args.lower = lower.view();
  args.inverse = inverse.view();

  TrilSeries series;
  series.dtype = dtype;
  series.chunk = systems.n;
  series.systems = systems.count;
  const auto run = [&](TrilRow row) {
    args.method = row.method;
    args.iterations = row.iterations;
    args.compute = row.method == SolveMethod::kNeumann && dtype == DType::kBF16 ? Compute::kBF16
                                                                                : Compute::kAuto;
    inverse.buffer().fill_nan();
    row.us_per_matrix =
        median_seconds(context, args, min_time) * 1e6 / static_cast<double>(systems.count);
    measure_errors(systems, inverse, &row);
    series.rows.push_back(row);
  };
  TrilRow identity;
  for (int64_t m = 0; m < systems.count; ++m) {
    for (int64_t i = 0; i < systems.n; ++i) {
      for (int64_t j = 0; j < systems.n; ++j) {
        inverse.set((m * systems.n + i) * systems.n + j, i == j ? 1 : 0);
      }
    }
  }
  measure_errors(systems, inverse, &identity);
  series.rows.push_back(identity);
  for (int i = 1; i <= max_iterations; ++i) run({.iterations = i});
  run({.method = SolveMethod::kExact, .iterations = 1});
  series.rows.back().iterations = 0;
  return series;
}

}  // namespace gdn::tools
