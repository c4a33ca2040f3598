// gdn verify: real layers, random and hard inputs, or a user's file, on every kernel that runs
// here, against the reference.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "command.h"
#include "processor.h"
#include "progress.h"
#include "stopwatch.h"
#include "table.h"
#include "verify_rows.h"

namespace gdn::tools {
namespace {

using verify::Case;

struct Options {
  std::string data, file, prefix, layout, line, shape, kernel;
  bool l2norm = false;
  double scale = 0;
  uint64_t seed = 1;
  int threads = 0;
  bool quick = false, summary = false, json = false;
  CLI::Option *l2norm_given = nullptr, *scale_given = nullptr;
};

Case case_of(const std::string& line) {
  Case c;
  const Status status = verify::parse(line, &c);
  if (!status.ok()) throw Mistake("--case: " + status.message());
  return c;
}

// Axes that the hard inputs do not touch, a line each.
struct NamedLine {
  const char* name;
  const char* line;
};
constexpr NamedLine kLines[] = {
    {"ragged, gates computed",
     "op=chunk lengths=1,63,64,65,0,129 H=2 HV=6 K=96 V=200 gates=computed beta=b l2norm=1"},
    {"ragged, bf16, [K,V]",
     "op=chunk lengths=1,63,64,65,0,129 H=2 HV=4 K=128 V=128 dtype=bf16 layout=kv l2norm=1"},
    {"ragged, fp16, bf16 state",
     "op=chunk lengths=17,33,127 H=1 HV=3 K=64 V=96 dtype=f16 state=bf16 final_state=bf16"},
    {"pool with padding",
     "op=chunk lengths=40,1,70,16 H=2 HV=4 K=128 V=64 indices=pool32 padding=both has_initial=1"},
    {"fused strides, checkpoints",
     "op=chunk lengths=200,64 H=2 HV=4 K=128 V=128 strides=fused checkpoint_every=64"},
    {"decode in a pool",
     "op=recurrent lengths=1,1,1,1,1 H=2 HV=4 K=128 V=128 dtype=bf16 indices=pool64 "
     "states=in_place padding=negative gates=computed beta=b l2norm=1"},
    {"speculative decode",
     "op=recurrent lengths=4,1,3 H=2 HV=4 K=128 V=128 indices=accepted states=in_place"},
    {"state per token",
     "op=recurrent lengths=4,2,3 H=2 HV=4 K=64 V=128 dtype=bf16 indices=per_token layout=kv"},
    {"replay", "op=replay lengths=4,1,3 H=2 HV=4 K=128 V=128 states=in_place indices=pool32"},
    {"ragged, in a pool",
     "op=causal_conv1d lengths=200,1,0,64 D=320 indices=pool32 states=in_place padding=negative "
     "silu=1"},
    {"ragged, bf16, channels last",
     "op=causal_conv1d lengths=2,150,3 D=200 dtype=bf16 state=bf16 final_state=bf16 bias=1 silu=1 "
     "channels_last=1"},
    {"speculative decode, one slot",
     "op=causal_conv1d lengths=4,1,3 D=320 spare=3 indices=one_slot states=in_place silu=1"},
};

// The hard inputs that broke other implementations.
bool in_quick(verify::Input input) {
  return input == verify::Input::kUsual || input == verify::Input::kIdenticalKeys ||
         input == verify::Input::kForgetOnce || input == verify::Input::kForgetWhole;
}

void verify_generated(const Options& o, Collector* to) {
  Case base;
  base.H = 2, base.HV = 4, base.K = 128, base.V = 128;
  base.lengths = o.quick ? std::vector<int64_t>{100} : std::vector<int64_t>{200, 97};
  if (!o.shape.empty()) parse_shape(o.shape, {"T", "N", "H", "HV", "K", "V"}, &base);
  base.seed = o.seed;
  for (int input = 0; input < verify::kInputCount; ++input) {
    if (o.quick && !in_quick(static_cast<verify::Input>(input))) continue;
    for (const verify::Operator op : {verify::Operator::kChunk, verify::Operator::kRecurrent}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        Case c = base;
        c.op = op;
        c.dtype = dtype;
        c.input = static_cast<verify::Input>(input);
        verify_case(name_of(c.input), c, to);
        if (dtype == DType::kBF16 && op == verify::Operator::kChunk &&
            c.input == verify::Input::kUsual) {
          c.compute = Compute::kF32;
          verify_case(name_of(c.input), c, to);
        }
      }
    }
  }
  if (!o.shape.empty()) return;
  for (const NamedLine& named : kLines) {
    Case c = case_of(named.line);
    c.seed = o.seed;
    verify_case(named.name, c, to);
  }
}

void verify_user_file(const Options& o, Collector* to) {
  verify::SafetensorsFile file;
  require(verify::SafetensorsFile::open(o.file, &file));
  verify::DeltaRuleFileOptions options;
  options.prefix = o.prefix;
  std::string repeat = "gdn verify --file " + o.file;
  if (!o.prefix.empty()) repeat += " --prefix " + o.prefix;
  if (!o.layout.empty()) {
    options.layout = o.layout == "vk" ? StateLayout::kVK : StateLayout::kKV;
    repeat += " --layout " + o.layout;
  }
  if (o.l2norm_given->count() > 0) {
    options.use_qk_l2norm = o.l2norm;
    repeat += o.l2norm ? " --l2norm" : " --no-l2norm";
  }
  if (o.scale_given->count() > 0) {
    options.scale = o.scale;
    repeat += " --scale " + text("%.17g", o.scale);
  }
  verify::DeltaRuleFile input;
  require(verify::read_delta_rule(file, options, &input));
  verify_file(std::filesystem::path(o.file).filename().string(), input, repeat, to);
}

// How near to its bound: past 1 it is broken. A zero bound met has no ratio; NaN is beyond
// everything.
double distance(const verify::Comparison& c) {
  if (std::isnan(c.error)) return 1e300;
  if (!c.ok()) return 2 + c.error;
  return c.bound > 0 ? c.error / c.bound : 0;
}

// The comparison that is nearest to its bound, or furthest beyond it; of "out" or of the others.
const verify::Comparison* worst(const Row& row, bool out) {
  const verify::Comparison* found = nullptr;
  for (const verify::Comparison& c : row.comparisons) {
    if ((c.tensor == row.comparisons.front().tensor) != out) continue;
    if (found == nullptr || distance(c) > distance(*found)) found = &c;
  }
  return found;
}

void print_table(const std::vector<Row>& rows) {
  Table table({"input", "op", "dtype", "kernel", "output", ">error", ">bound", "state", ">error",
               ">bound", "verdict"});
  for (const Row& row : rows) {
    std::vector<std::string> cells = {row.name, row.op, row.dtype, row.kernel};
    for (const bool out : {true, false}) {
      const verify::Comparison* c = worst(row, out);
      cells.push_back(c ? c->tensor : "-");
      cells.push_back(c ? text("%.1e", c->relative_error()) : "-");
      cells.push_back(c ? text("%.1e", c->relative_bound()) : "-");
    }
    cells.push_back(row.ok() ? "ok" : "BROKEN");
    table.add(std::move(cells));
  }
  table.print();
  std::printf("\nErrors and bounds are L2 norms relative to the reference's.\n");
}

// A row for each operator and kernel: how many checks, and of the outputs and of the states
// the one nearest to its bound.
void print_summary(const std::vector<Row>& rows) {
  struct Group {
    std::string op, kernel;
    std::vector<const Row*> rows;
  };
  std::vector<Group> groups;
  for (const Row& row : rows) {
    const auto same = [&](const Group& g) { return g.op == row.op && g.kernel == row.kernel; };
    auto group = std::find_if(groups.begin(), groups.end(), same);
    if (group == groups.end()) {
      group = groups.insert(groups.end(), {row.op, row.kernel, {}});
    }
    group->rows.push_back(&row);
  }
  Table table({"op", "kernel", ">checks", ">output: worst error", ">bound", ">state: worst error",
               ">bound", "verdict"});
  for (const Group& group : groups) {
    std::vector<std::string> cells = {group.op, group.kernel, std::to_string(group.rows.size())};
    for (const bool out : {true, false}) {
      const verify::Comparison* found = nullptr;
      for (const Row* row : group.rows) {
        const verify::Comparison* c = worst(*row, out);
        if (c != nullptr && (found == nullptr || distance(*c) > distance(*found))) found = c;
      }
      cells.push_back(found ? text("%.1e", found->relative_error()) : "-");
      cells.push_back(found ? text("%.1e", found->relative_bound()) : "-");
    }
    const bool ok =
        std::all_of(group.rows.begin(), group.rows.end(), [](const Row* row) { return row->ok(); });
    cells.push_back(ok ? "ok" : "BROKEN");
    table.add(std::move(cells));
  }
  table.print();
  std::printf(
      "\nErrors and bounds are L2 norms relative to the reference's; shown is the check that is "
      "nearest "
      "to its bound.\n");
}

void print_failures(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    if (row.ok()) continue;
    std::printf("\nBROKEN  %s, %s, %s, kernel %s\n", row.name.c_str(), row.op.c_str(),
                row.dtype.c_str(), row.kernel.c_str());
    for (const verify::Comparison& c : row.comparisons) {
      if (c.ok()) continue;
      std::printf("  %s: relative error %.3e, bound %.3e\n", c.tensor.c_str(), c.relative_error(),
                  c.relative_bound());
    }
    for (const std::string& defect : row.defects) std::printf("  %s\n", defect.c_str());
    if (!row.repeat.empty()) std::printf("  again: %s\n", row.repeat.c_str());
  }
}

nlohmann::ordered_json to_json(const Row& row) {
  nlohmann::ordered_json out;
  out["input"] = row.name;
  out["op"] = row.op;
  out["dtype"] = row.dtype;
  out["kernel"] = row.kernel;
  out["ok"] = row.ok();
  out["tensors"] = nlohmann::ordered_json::array();
  for (const verify::Comparison& c : row.comparisons) {
    out["tensors"].push_back({{"tensor", c.tensor},
                              {"relative_error", c.relative_error()},  // null: NaN
                              {"relative_bound", c.relative_bound()},
                              {"norm", c.norm},
                              {"ok", c.ok()}});
  }
  out["defects"] = row.defects;
  out["repeat"] = row.repeat;
  return out;
}

int run(const Options& o) {
  check_kernel(o.kernel);
  const Threads threads = make_threads(o.threads);
  Progress progress;
  Collector to;
  to.executor = threads.executor.get();
  to.show = [&](const std::string& what) { progress.show("gdn verify: " + what); };
  if (!o.kernel.empty()) {
    to.kernels = {o.kernel};
  } else {
    for (const KernelInfo& kernel : kernels()) {
      if (kernel.supported && kernel.backend != "reference") to.kernels.emplace_back(kernel.name);
    }
  }

  const Stopwatch watch;
  std::string data = o.data;
  if (!o.file.empty()) {
    verify_user_file(o, &to);
  } else if (!o.line.empty()) {
    verify_case("case", case_of(o.line), &to);
  } else {
    if (data.empty()) data = find_data();
    if (o.shape.empty() && !data.empty()) {
      std::vector<verify::Capture> captures;
      require(verify::read_captures(data, &captures));
      if (o.quick) captures.resize(1);
      for (const verify::Capture& capture : captures) {
        verify_gating(capture, &to);
        verify_capture(capture, o.quick, &to);
      }
    }
    verify_generated(o, &to);
    if (o.shape.empty()) verify_elementwise(o.seed, o.quick, &to);
  }
  progress.clear();

  const auto broken =
      std::count_if(to.rows.begin(), to.rows.end(), [](const Row& row) { return !row.ok(); });
  const bool missing = data.empty() && o.file.empty() && o.line.empty() && o.shape.empty();
  if (o.json) {
    nlohmann::ordered_json out;
    out["version"] = GDN_VERSION;
    out["processor"] = processor().model;
    out["threads"] = to.executor->max_workers();
    out["kernels"] = to.kernels;
    out["seed"] = o.seed;
    out["captures"] = missing ? nlohmann::ordered_json() : nlohmann::ordered_json(data);
    out["checks"] = to.rows.size();
    out["broken"] = broken;
    out["ok"] = broken == 0;
    out["results"] = nlohmann::ordered_json::array();
    for (const Row& row : to.rows) out["results"].push_back(to_json(row));
    std::printf("%s\n", out.dump(2).c_str());
  } else {
    if (o.summary) {
      print_summary(to.rows);
    } else {
      print_table(to.rows);
    }
    print_failures(to.rows);
    std::string kernel_names;
    for (const std::string& kernel : to.kernels) {
      kernel_names += (kernel_names.empty() ? "" : ", ") + kernel;
    }
    std::printf("\n");
    if (missing) {
      std::printf("The captured layers were not found (--data), so they are not among these.\n");
    }
    std::printf("%zu checks on %s in %.1f s: ", to.rows.size(), kernel_names.c_str(),
                watch.seconds());
    if (broken == 0) {
      std::printf("every error is within its bound\n");
    } else {
      std::printf("%td BROKEN\n", broken);
    }
  }
  return broken == 0 ? kSuccess : kBoundBroken;
}

}  // namespace

void add_verify(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand(
      "verify",
      "Compare every kernel with the double-precision reference: real layers, random and hard "
      "inputs, or a file of yours");
  const auto o = std::make_shared<Options>();
  CLI::Option* data =
      command->add_option("--data", o->data, "Directory of gdn_captures.safetensors");
  CLI::Option* file = command->add_option(
      "--file", o->file,
      "A safetensors file with tensors named as the arguments of chunk and recurrent: q, k, v, g "
      "or a, A_log, dt_bias, beta or b, cu_seqlens, initial_state, ...; out_expected and "
      "final_state_expected are compared too");
  command->add_option("--prefix", o->prefix, "Of the names in --file, as in layer0.")->needs(file);
  command->add_option("--layout", o->layout, "Last axes of the states in --file")
      ->check(CLI::IsMember({"vk", "kv"}))
      ->needs(file);
  o->l2norm_given =
      command->add_flag("--l2norm,!--no-l2norm", o->l2norm, "Normalise q and k of --file inside")
          ->needs(file);
  o->scale_given =
      command->add_option("--scale", o->scale, "Scale of --file; K^-1/2 unless given")->needs(file);
  CLI::Option* line =
      command->add_option("--case", o->line, "One generated case, as failures print it")
          ->excludes(file)
          ->excludes(data);
  command
      ->add_option("--shape", o->shape,
                   "Generated inputs of this shape alone, as in T=512,N=2,H=16,HV=32,K=128,V=128")
      ->excludes(file)
      ->excludes(line);
  command->add_option("--seed", o->seed, "Of the generated inputs")->capture_default_str();
  command->add_flag("--quick", o->quick, "A few seconds: one layer, shorter sequences");
  command->add_flag("--summary", o->summary,
                    "A row for each operator and kernel in place of one for each check");
  add_threads(command, &o->threads);
  add_kernel(command, &o->kernel);
  add_json(command, &o->json);
  command->footer(
      "Examples:\n  gdn verify --quick\n  gdn verify --kernel avx2 --shape "
      "T=512,N=2,H=16,HV=32,K=128,V=128 --seed 7\n  gdn verify --file layer.safetensors --layout "
      "vk");
  command->callback([=] { *action = [=] { return run(*o); }; });
}

}  // namespace gdn::tools
