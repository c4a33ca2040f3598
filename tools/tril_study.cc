#include "tril_study.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "check/check.h"
#include "command.h"
#include "half.h"
#include "reference/chunked.h"
#include "reference/solve_tril.h"
#include "reference/tasks.h"
#include "stopwatch.h"
#include "verify/tensor.h"

namespace gdn::tools {
namespace {

using verify::Tensor;

// A NaN is the largest of all numbers.
bool less(double a, double b) { return a < b || (std::isnan(b) && !std::isnan(a)); }
void raise(double* most, double value) {
  if (less(*most, value)) *most = value;
}

Spread spread_of(std::vector<double> values) {
  Spread spread;
  for (double value : values) raise(&spread.max, value);
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end(), less);
  spread.median = *middle;
  return spread;
}

void measure_errors(const Systems& systems, const std::vector<double>& X, TrilRow* row) {
  const auto count = static_cast<size_t>(systems.count);
  const int64_t n = systems.n;
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
      raise(&row->abs_error_max, difference);
    }
    errors[static_cast<size_t>(m)] = std::sqrt(error / norm);
  }
  row->residual = spread_of(std::move(residuals));
  row->rel_error = spread_of(std::move(errors));
}

std::vector<double> identities(const Systems& systems) {
  std::vector<double> X(systems.L.size());
  for (int64_t m = 0; m < systems.count; ++m) {
    for (int64_t i = 0; i < systems.n; ++i) {
      X[static_cast<size_t>((m * systems.n + i) * systems.n + i)] = 1;
    }
  }
  return X;
}

TrilRow row_of_identities(const Systems& systems) {
  TrilRow row;
  measure_errors(systems, identities(systems), &row);
  return row;
}

float bf16(float x) { return bf16_to_float(float_to_bf16(x)); }

// X <- X - bf16(X) bf16(strict_lower(bf16(L) bf16(X))), sums and X in float32. L is rounded; `X16`
// and `P` are [n,n].
void iterate_bf16_products(const float* L, int64_t n, float* X, float* X16, float* P) {
  for (int64_t i = 0; i < n * n; ++i) X16[i] = bf16(X[i]);
  std::fill_n(P, n * n, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    float* row = P + i * n;
    for (int64_t m = 0; m <= i; ++m) {
      const float l = m == i ? 1.0f : L[i * n + m];
      for (int64_t j = 0; j < i; ++j) row[j] += l * X16[m * n + j];
    }
    for (int64_t j = 0; j < i; ++j) row[j] = bf16(row[j]);
  }
  std::vector<float> update(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    std::fill(update.begin(), update.end(), 0.0f);
    for (int64_t m = 0; m <= i; ++m) {
      for (int64_t j = 0; j < m; ++j)
        update[static_cast<size_t>(j)] += X16[i * n + m] * P[m * n + j];
    }
    for (int64_t j = 0; j < i; ++j) X[i * n + j] -= update[static_cast<size_t>(j)];
  }
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
  std::vector<std::vector<double>> decays(static_cast<size_t>(tasks));
  reference::run_tasks(executor, tasks, [&](int64_t task, int) {
    const auto x = reference::preprocess(problem, task / HV, task % HV, chunk);
    stages[static_cast<size_t>(task)] = reference::phase_a(x);
    for (int64_t end = chunk; end <= x.length; end += chunk) {
      decays[static_cast<size_t>(task)].push_back(x.G[static_cast<size_t>(end - 1)]);
    }
  });
  Systems systems;
  systems.n = chunk;
  for (const auto& decay : decays) {
    systems.decay.insert(systems.decay.end(), decay.begin(), decay.end());
  }
  for (const reference::PhaseA& stage : stages) {
    systems.L.insert(systems.L.end(), stage.L.begin(), stage.L.end());
    systems.inverse.insert(systems.inverse.end(), stage.T.begin(), stage.T.end());
  }
  systems.count = static_cast<int64_t>(systems.L.size()) / (chunk * chunk);
  if (systems.count == 0) throw Mistake("there is no token, and so no chunk to study");
  return systems;
}

SystemStatistics statistics_of(const Systems& systems) {
  SystemStatistics s;
  s.cumulative_g_full_chunk = systems.decay;
  const int64_t n = systems.n;
  for (int64_t m = 0; m < systems.count; ++m) {
    const double* L = systems.L.data() + m * n * n;
    const double* T = systems.inverse.data() + m * n * n;
    double largest = 0, off = 0, norm = 0;
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < i; ++j) {
        raise(&off, std::fabs(T[i * n + j]));
        sum += std::fabs(T[i * n + j]);
        raise(&s.system_offdiag_abs_max, std::fabs(L[i * n + j]));
      }
      raise(&largest, std::fabs(T[i * n + i]));
      raise(&norm, sum + std::fabs(T[i * n + i]));
      raise(&s.inverse_sum_abs_offdiag_row_max, sum);
    }
    raise(&largest, off);
    s.inverse_abs_max.push_back(largest);
    s.inverse_offdiag_abs_max.push_back(off);
    s.inverse_inf_norm.push_back(norm);
  }
  for (auto* values : {&s.cumulative_g_full_chunk, &s.inverse_abs_max, &s.inverse_offdiag_abs_max,
                       &s.inverse_inf_norm}) {
    std::sort(values->begin(), values->end(), less);
  }
  return s;
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
  series.arithmetic = short_name(dtype);
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
    measure_errors(systems, inverse.to_doubles(), &row);
    series.rows.push_back(row);
  };
  series.rows.push_back(row_of_identities(systems));
  for (int i = 1; i <= max_iterations; ++i) run({.iterations = i});
  run({.method = SolveMethod::kExact, .iterations = 1});
  series.rows.back().iterations = 0;
  return series;
}

TrilSeries study_bf16_products(const Systems& systems, int max_iterations) {
  const int64_t n = systems.n, elements = n * n;
  std::vector<float> L(systems.L.size()), X(systems.L.size());
  for (size_t i = 0; i < L.size(); ++i) L[i] = bf16(static_cast<float>(systems.L[i]));
  std::vector<double> wide = identities(systems);
  std::copy(wide.begin(), wide.end(), X.begin());
  std::vector<float> X16(static_cast<size_t>(elements)), P(static_cast<size_t>(elements));

  TrilSeries series;
  series.arithmetic = "bf16_mm";
  series.chunk = n;
  series.systems = systems.count;
  series.rows.push_back(row_of_identities(systems));
  for (int i = 1; i <= max_iterations; ++i) {
    for (int64_t m = 0; m < systems.count; ++m) {
      iterate_bf16_products(L.data() + m * elements, n, X.data() + m * elements, X16.data(),
                            P.data());
    }
    std::copy(X.begin(), X.end(), wide.begin());
    TrilRow row;
    row.iterations = i;
    measure_errors(systems, wide, &row);
    series.rows.push_back(row);
  }
  return series;
}

}  // namespace gdn::tools
