// gdn tril: the iterative inverse that the staged pipeline knows, step by step beside the exact
// one, on the systems of real layers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "command.h"
#include "log_plot.h"
#include "processor.h"
#include "progress.h"
#include "stopwatch.h"
#include "table.h"
#include "tril_study.h"
#include "verify/captures.h"
#include "verify/delta_rule_file.h"

namespace gdn::tools {
namespace {

struct Options {
  std::string data, file, prefix, kernel, svg;
  bool l2norm = false, json = false;
  CLI::Option* l2norm_given = nullptr;
  std::vector<int64_t> chunks = {64, 128};
  int iterations = 14, threads = 1;
  double min_time = 0.005;
};

struct Layer {
  std::string name;
  verify::DeltaRuleData data;
  std::vector<TrilSeries> series;
  std::vector<std::pair<int64_t, SystemStatistics>> systems;  // by chunk
};

std::vector<Layer> read_layers(const Options& o) {
  std::vector<Layer> layers;
  if (!o.file.empty()) {
    verify::SafetensorsFile file;
    require(verify::SafetensorsFile::open(o.file, &file));
    verify::DeltaRuleFileOptions options;
    options.prefix = o.prefix;
    options.keys_alone = true;
    if (o.l2norm_given->count() > 0) options.use_qk_l2norm = o.l2norm;
    verify::DeltaRuleFile input;
    require(verify::read_delta_rule(file, options, &input));
    const std::string name = std::filesystem::path(o.file).filename().string();
    layers.push_back({o.prefix.empty() ? name : name + " " + o.prefix, input.data, {}, {}});
    return layers;
  }
  const std::string data = o.data.empty() ? find_data() : o.data;
  if (data.empty()) throw Mistake("the captured layers were not found, expected --data or --file");
  std::vector<verify::Capture> captures;
  require(verify::read_captures(data, &captures));
  for (verify::Capture& capture : captures) {
    layers.push_back({capture.layer, std::move(capture.file.data), {}, {}});
  }
  return layers;
}

std::string iterations_of(const TrilRow& row) {
  return row.method == SolveMethod::kExact ? "exact" : std::to_string(row.iterations);
}

nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

nlohmann::ordered_json to_json(const TrilSeries& series) {
  nlohmann::ordered_json out;
  out["dtype"] = series.arithmetic;
  out["chunk"] = series.chunk;
  out["systems"] = series.systems;
  for (const TrilRow& row : series.rows) {
    nlohmann::ordered_json r;
    const bool exact = row.method == SolveMethod::kExact;
    if (!exact) r["iter"] = row.iterations;
    r["residual_max"] = number(row.residual.max);
    r["residual_median"] = number(row.residual.median);
    r["rel_err_max"] = number(row.rel_error.max);
    r["rel_err_median"] = number(row.rel_error.median);
    r["abs_err_max"] = number(row.abs_error_max);
    if (row.us_per_matrix > 0) r["us_per_matrix"] = row.us_per_matrix;
    if (exact) {
      out["exact"] = r;
    } else {
      out["neumann"].push_back(r);
    }
  }
  return out;
}

// The quantiles of data/stats.json.
nlohmann::ordered_json to_json(const std::vector<double>& sorted) {
  nlohmann::ordered_json out;
  if (sorted.empty()) return out;
  for (const char* q :
       {"0", "0.001", "0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99", "0.999", "1"}) {
    out[q] = number(quantile(sorted, std::atof(q)));
  }
  return out;
}

nlohmann::ordered_json to_json(const SystemStatistics& s) {
  return {{"cumulative_g_full_chunk", to_json(s.cumulative_g_full_chunk)},
          {"inverse_abs_max", to_json(s.inverse_abs_max)},
          {"inverse_offdiag_abs_max", to_json(s.inverse_offdiag_abs_max)},
          {"inverse_sum_abs_offdiag_row_max", number(s.inverse_sum_abs_offdiag_row_max)},
          {"inverse_inf_norm", to_json(s.inverse_inf_norm)},
          {"system_offdiag_abs_max", number(s.system_offdiag_abs_max)}};
}

void print_json(const Plan& plan, const std::vector<Layer>& layers) {
  nlohmann::ordered_json out;
  out["version"] = GDN_VERSION;
  out["processor"] = processor().model;
  out["kernel"] = plan.kernel;
  out["threads"] = plan.workers;
  out["layers"] = nlohmann::ordered_json::array();
  for (const Layer& layer : layers) {
    nlohmann::ordered_json l;
    l["name"] = layer.name;
    for (const TrilSeries& series : layer.series) l["series"].push_back(to_json(series));
    for (const auto& [chunk, systems] : layer.systems) {
      l["chunk"][std::to_string(chunk)] = to_json(systems);
    }
    out["layers"].push_back(l);
  }
  std::printf("%s\n", out.dump(2).c_str());
}

void print_tables(const Plan& plan, const std::vector<Layer>& layers) {
  std::printf("%s, kernel %s, %d threads\n", processor().model.c_str(),
              std::string(plan.kernel).c_str(), plan.workers);
  for (const Layer& layer : layers) {
    for (const auto& [chunk, s] : layer.systems) {
      std::printf(
          "\n%s, chunks of %lld: |A| up to %.3g; row sums of |L^-1| up to %.3g, median %.3g\n",
          layer.name.c_str(), static_cast<long long>(chunk), s.system_offdiag_abs_max,
          s.inverse_inf_norm.back(), quantile(s.inverse_inf_norm, 0.5));
    }
    for (const TrilSeries& series : layer.series) {
      std::printf("\n%s, %s, %lld systems of %lld x %lld\n", layer.name.c_str(),
                  series.arithmetic.c_str(), static_cast<long long>(series.systems),
                  static_cast<long long>(series.chunk), static_cast<long long>(series.chunk));
      Table table({">iterations", ">residual max", ">median", ">error max", ">median",
                   ">absolute max", ">us/matrix"});
      for (const TrilRow& row : series.rows) {
        table.add({iterations_of(row), text("%.2e", row.residual.max),
                   text("%.2e", row.residual.median), text("%.2e", row.rel_error.max),
                   text("%.2e", row.rel_error.median), text("%.2e", row.abs_error_max),
                   row.us_per_matrix > 0 ? text("%.2f", row.us_per_matrix) : "-"});
      }
      table.print();
    }
  }
  std::printf(
      "\nresidual: max |strict_lower(L X)|; error: |X - L^-1| / |L^-1|, Frobenius norms; over all "
      "systems,\nagainst L and its inverse in double; bf16: L, X and strict_lower(L X) rounded "
      "in every iteration;\nbf16_mm: the products' operands alone, as on tensor cores\n");
}

// Colours that stay apart for every kind of sight; a pair of shades for each dtype.
std::string colour_of(const TrilSeries& series, size_t chunk_index) {
  static constexpr const char* kFp32[] = {"#56b4e9", "#0060a0"};
  static constexpr const char* kBf16[] = {"#f0a030", "#b03000"};
  return series.arithmetic == "fp32" ? kFp32[chunk_index % 2] : kBf16[chunk_index % 2];
}

Plot plot_of(const Options& o, const std::vector<Layer>& layers) {
  Plot plot{"Neumann's iteration on the systems of real chunks",
            "iterations",
            "residual  max |strict_lower(L X)|",
            "exact",
            {}};
  for (const Layer& layer : layers) {
    PlotPanel panel{layer.name, {}};
    for (const bool median : {false, true}) {
      for (const TrilSeries& series : layer.series) {
        if (series.arithmetic == "bf16_mm") continue;  // its line lies on bf16's
        const auto index = static_cast<size_t>(
            std::find(o.chunks.begin(), o.chunks.end(), series.chunk) - o.chunks.begin());
        PlotLine line{text("%s, chunk %lld, %s", series.arithmetic.c_str(),
                           static_cast<long long>(series.chunk), median ? "median" : "max"),
                      colour_of(series, index),
                      median,
                      {},
                      0};
        for (const TrilRow& row : series.rows) {
          const double value = median ? row.residual.median : row.residual.max;
          if (row.method == SolveMethod::kExact) {
            line.apart = value;
          } else {
            line.values.push_back(value);
          }
        }
        panel.lines.push_back(std::move(line));
      }
    }
    plot.panels.push_back(std::move(panel));
  }
  return plot;
}

void write_svg(const std::string& path, const std::string& svg) {
  std::ofstream out(path, std::ios::binary);
  out << svg;
  out.close();
  if (!out) throw Mistake("--svg: \"" + path + "\" could not be written");
}

int run(const Options& o) {
  check_kernel(o.kernel);
  std::vector<Layer> layers = read_layers(o);
  const Threads threads = make_threads(o.threads);
  Context context;
  context.executor = threads.executor.get();
  context.kernel = o.kernel.empty() ? nullptr : o.kernel.c_str();
  Plan plan;
  Progress progress;
  for (Layer& layer : layers) {
    for (const int64_t chunk : o.chunks) {
      progress.show(layer.name + ", chunk " + std::to_string(chunk));
      const Systems systems = systems_of(layer.data, chunk, context.executor);
      Shape shape;
      shape.op = Op::kSolveTril;
      shape.sequences = systems.count;
      shape.K = chunk;
      require(gdn::plan(context, shape, &plan));
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        layer.series.push_back(study_tril(context, systems, dtype, o.iterations, o.min_time));
      }
      layer.series.push_back(study_bf16_products(systems, o.iterations));
      layer.systems.emplace_back(chunk, statistics_of(systems));
    }
  }
  progress.clear();
  if (!o.svg.empty()) write_svg(o.svg, to_svg(plot_of(o, layers)));
  if (o.json) {
    print_json(plan, layers);
  } else {
    print_tables(plan, layers);
  }
  return kSuccess;
}

}  // namespace

void add_tril(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand(
      "tril",
      "Study the triangular inverse of the chunks' systems: residual, error and time of Neumann's "
      "iteration, step by step, beside the exact one");
  const auto o = std::make_shared<Options>();
  CLI::Option* file = command->add_option(
      "--file", o->file,
      "A safetensors file with k, g or a, A_log, dt_bias, beta or b, cu_seqlens; the captured "
      "layers unless given");
  command->add_option("--data", o->data, "Directory of gdn_captures.safetensors")->excludes(file);
  command->add_option("--prefix", o->prefix, "Of the names in --file, as in layer0.")->needs(file);
  o->l2norm_given =
      command->add_flag("--l2norm,!--no-l2norm", o->l2norm, "Normalise k of --file")->needs(file);
  command->add_option("--chunks", o->chunks, "Tokens of a chunk")
      ->delimiter(',')
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--iterations", o->iterations, "Up to how many")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--min-time", o->min_time, "Seconds to measure each row for")
      ->check(CLI::Range(0.0, 60.0))
      ->capture_default_str();
  command->add_option("--svg", o->svg, "Write a plot of the residuals to this file");
  add_threads(command, &o->threads);
  add_kernel(command, &o->kernel);
  add_json(command, &o->json);
  command->footer(
      "Examples:\n  gdn tril --svg neumann.svg\n  gdn tril --file layer.safetensors --l2norm "
      "--chunks 64 --json");
  command->callback([=] { *action = [=] { return run(*o); }; });
}

}  // namespace gdn::tools
