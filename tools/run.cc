// gdn run: any operator on the tensors of a file. Tensors and options are named as in the API; the
// outputs go to another file.
#include <algorithm>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "command.h"
#include "run_outputs.h"
#include "table.h"
#include "verify/arguments.h"
#include "verify/call_file.h"

namespace gdn::tools {
namespace {

// The options of all operators, by their names in the API.
struct Flag {
  const char* name;
  const char* flags;
  const char* help;
  bool is_switch = false;
};
constexpr Flag kFlags[] = {
    {"state_layout", "--layout,--state-layout", "Last axes of the states, vk or kv; never guessed"},
    {"scale", "--scale", "Of the output; K^-1/2 unless given"},
    {"use_qk_l2norm", "--l2norm,--use-qk-l2norm,!--no-l2norm", "Normalise q and k inside", true},
    {"l2norm_eps", "--l2norm-eps", "Of that norm"},
    {"allow_neg_eigval", "--allow-neg-eigval,!--no-neg-eigval", "Double beta", true},
    {"softplus_beta", "--softplus-beta", "Of the gate"},
    {"softplus_threshold", "--softplus-threshold", "Of the gate"},
    {"null_slot", "--null-slot", "A slot that means padding"},
    {"compute", "--compute", "Operands of the matrix products: auto, fp32 or bf16"},
    {"chunk_size", "--chunk-size", "Of the reference's staged pipeline"},
    {"context_split", "--context-split", "Segments of long sequences: auto, fixed or off"},
    {"checkpoint_every", "--checkpoint-every", "Keep the state after so many tokens each"},
    {"eps", "--eps", "Of l2norm and rms_norm_gated"},
    {"silu", "--silu,!--no-silu", "After causal_conv1d", true},
    {"method", "--method", "Of solve_tril: exact or neumann"},
    {"iterations", "--iterations", "Of neumann"},
};

struct GivenFlag {
  const Flag* flag;
  std::string text;
  CLI::Option* option = nullptr;
};

struct Options {
  std::string in, out, op, prefix, kernel;
  int threads = 0;
  bool no_final_state = false, json = false;
  std::deque<GivenFlag> flags;  // where they are does not change
};

template <class Args>
struct Operator {
  const char* name;
  Status (*call)(Context&, const Args&);
  std::vector<std::string> needs;  // tensors without which nothing can be allocated
};

// Sets every option from the command line, or else from the metadata; returns the names of those
// that were set.
template <class Args>
std::vector<std::string> read_options(const Options& o, const char* op,
                                      const verify::SafetensorsFile& file, Args* args) {
  std::vector<std::string> known, set;
  verify::for_each_option(*args, [&](const char* name, auto& value) {
    known.push_back(name);
    const auto given = std::find_if(o.flags.begin(), o.flags.end(), [&](const GivenFlag& f) {
      return f.flag->name == known.back() && f.option->count() > 0;
    });
    if (given != o.flags.end()) {
      require(verify::read_option(given->option->get_name(), given->text, &value));
    } else if (file.metadata().count(name) > 0) {
      require(verify::read_metadata(file, name, &value));
    } else {
      return;
    }
    set.push_back(name);
  });
  for (const GivenFlag& given : o.flags) {
    if (given.option->count() > 0 &&
        std::find(known.begin(), known.end(), given.flag->name) == known.end()) {
      throw Mistake(given.option->get_name() + " is no option of " + op);
    }
  }
  // Metadata may hold anything, but a slip of an option's name would be silent.
  for (const auto& [key, value] : file.metadata()) {
    const auto is_key = [key = &key](const Flag& flag) { return flag.name == *key; };
    if (std::any_of(std::begin(kFlags), std::end(kFlags), is_key) || key == "op") continue;
    const std::string nearest = verify::nearest_name(key, known);
    if (!nearest.empty()) {
      throw Mistake(file.name() + ": __metadata__ \"" + key + "\" is no option of " + op +
                    ", expected perhaps \"" + nearest + "\"");
    }
  }
  return set;
}

template <class Args>
void read_inputs(const Options& o, const Operator<Args>& op, const verify::SafetensorsFile& file,
                 Args* args, TensorView* final_state) {
  std::vector<verify::TensorPlace> places;
  std::map<std::string, const TensorView*> views;
  verify::for_each_input(*args, [&](const char* name, TensorView& view) {
    places.push_back({name, [&view](const TensorView& given) { view = given; }});
    views[name] = &view;
  });
  if constexpr (has_final_state<Args>) {
    places.push_back({"final_state", [=](const TensorView& given) { *final_state = given; }});
  }
  for (const verify::SafetensorsEntry& entry : file.entries()) {
    // For `gdn verify --file` to compare with.
    if (entry.name.ends_with("_expected")) places.push_back({entry.name, [](const TensorView&) {}});
  }
  require(verify::read_tensors(file, o.prefix, places, std::string("argument of ") + op.name));
  for (const std::string& name : op.needs) {
    if (!views.at(name)->given()) {
      throw Mistake(file.name() + ": has no tensor \"" + o.prefix + name + "\", which " + op.name +
                    " needs");
    }
  }
}

int report(const Options& o, const Plan& plan, const Outputs& outputs) {
  if (o.json) {
    nlohmann::ordered_json out;
    out["op"] = name_of(plan.op);
    out["backend"] = plan.backend;
    out["kernel"] = plan.kernel;
    out["workers"] = plan.workers;
    out["file"] = o.out;
    out["outputs"] = nlohmann::ordered_json::array();
    for (const auto& [name, tensor] : outputs.tensors()) {
      out["outputs"].push_back(
          {{"name", name}, {"dtype", name_of(tensor.dtype())}, {"shape", tensor.shape()}});
    }
    std::printf("%s\n", out.dump(2).c_str());
    return kSuccess;
  }
  std::printf("%s\n\n%s has\n", to_string(plan).c_str(), o.out.c_str());
  Table table({"tensor", "dtype", "shape"});
  for (const auto& [name, tensor] : outputs.tensors()) {
    std::string shape;
    for (int64_t extent : tensor.shape()) {
      if (!shape.empty()) shape += ',';
      shape += std::to_string(extent);
    }
    table.add({name, name_of(tensor.dtype()), shape});
  }
  table.print();
  return kSuccess;
}

template <class Args>
Args empty_args() {
  if constexpr (std::is_constructible_v<Args, StateLayout>) {
    return Args(StateLayout::kVK);
  } else {
    return Args();
  }
}

// Whether a state with a layout goes in or out.
template <class Args>
bool has_states(const Args& args, bool no_final_state) {
  if constexpr (std::is_base_of_v<DeltaRuleArgs, Args>) {
    if constexpr (std::is_same_v<Args, ChunkArgs>) {
      if (args.checkpoint_every > 0) return true;
    }
    return !no_final_state || args.initial_state.given();
  } else {
    return std::is_constructible_v<Args, StateLayout>;
  }
}

template <class Args>
int run_operator(const Options& o, const verify::SafetensorsFile& file, const Operator<Args>& op) {
  if (o.no_final_state && !has_final_state<Args>)
    throw Mistake(std::string("--no-final-state is no option of ") + op.name);
  Args args = empty_args<Args>();
  const std::vector<std::string> set = read_options(o, op.name, file, &args);
  Outputs outputs;
  TensorView final_state;
  read_inputs(o, op, file, &args, &final_state);
  if (o.no_final_state && final_state.given())
    throw Mistake("--no-final-state, but the file has a tensor \"final_state\"");
  if (has_states(args, o.no_final_state) &&
      std::find(set.begin(), set.end(), "state_layout") == set.end()) {
    throw Mistake(std::string(op.name) +
                  " has states, expected --layout vk or kv, or state_layout in __metadata__");
  }
  outputs.allocate(&args, final_state, !o.no_final_state);

  const Threads threads = make_threads(o.threads);
  Context context;
  context.executor = threads.executor.get();
  context.kernel = o.kernel.empty() ? nullptr : o.kernel.c_str();
  Plan plan;
  require(gdn::plan(context, args, &plan));
  require(op.call(context, args));

  std::map<std::string, std::string> metadata = {{"op", op.name}};
  if constexpr (std::is_constructible_v<Args, StateLayout>) {
    metadata["state_layout"] = args.state_layout == StateLayout::kVK ? "vk" : "kv";
  }
  std::vector<std::pair<std::string, TensorView>> written;
  for (const auto& [name, tensor] : outputs.tensors()) written.emplace_back(name, tensor.view());
  require(verify::write_safetensors(o.out, written, metadata));
  return report(o, plan, outputs);
}

// Calls visit(operator) for each.
template <class Visit>
void for_each_operator(const Visit& visit) {
  visit(Operator<ChunkArgs>{"chunk", &chunk, {"q", "k", "v"}});
  visit(Operator<RecurrentArgs>{"recurrent", &recurrent, {"q", "k", "v"}});
  visit(Operator<ReplayVerifyArgs>{
      "replay_verify",
      &replay_verify,
      {"q", "k", "v", "state", "num_accepted", "record_k", "record_v", "record_g"}});
  visit(Operator<ReplayCommitArgs>{"replay_commit",
                                   &replay_commit,
                                   {"state", "num_accepted", "record_k", "record_v", "record_g"}});
  visit(Operator<GatingArgs>{"gating", &gating, {"a", "A_log"}});
  visit(Operator<L2normArgs>{"l2norm", &l2norm, {"x"}});
  visit(Operator<CausalConv1dArgs>{"causal_conv1d", &causal_conv1d, {"x", "weight"}});
  visit(Operator<RmsNormGatedArgs>{"rms_norm_gated", &rms_norm_gated, {"x", "z", "weight"}});
  visit(Operator<SolveTrilArgs>{"solve_tril", &solve_tril, {"lower"}});
}

std::string operator_names() {
  std::string names;
  for_each_operator(
      [&](const auto& op) { names += (names.empty() ? "" : ", ") + std::string(op.name); });
  return names;
}

int run(const Options& o) {
  check_kernel(o.kernel);
  std::error_code none;  // there is no output yet
  if (std::filesystem::equivalent(o.in, o.out, none)) {
    throw Mistake("output \"" + o.out + "\" is the input, expected another file");
  }
  verify::SafetensorsFile file;
  require(verify::SafetensorsFile::open(o.in, &file));
  std::string name = o.op;
  if (name.empty()) require(verify::read_metadata(file, "op", &name));
  if (name.empty())
    throw Mistake("which operator is not said, expected --op, or op in __metadata__");
  int code = kMistake;
  bool found = false;
  for_each_operator([&](const auto& op) {
    if (name != op.name) return;
    found = true;
    code = run_operator(o, file, op);
  });
  if (found) return code;
  std::vector<std::string> known;
  for_each_operator([&](const auto& op) { known.push_back(op.name); });
  const std::string nearest = verify::nearest_name(name, known);
  throw Mistake("there is no operator \"" + name + "\", expected " +
                (nearest.empty() ? "one of " + operator_names() : "perhaps " + nearest));
}

}  // namespace

void add_run(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand(
      "run", "Run an operator on the tensors of a safetensors file, and write its outputs");
  const auto o = std::make_shared<Options>();
  command
      ->add_option(
          "input", o->in,
          "A safetensors file with tensors named as the arguments in gdn/ops.h: q, k, v, "
          "g, A_log, a, dt_bias, beta, b, cu_seqlens, initial_state, ...; state, record_k, "
          "...; x; lower. Options that are not on the command line may be in its "
          "__metadata__, under their names there")
      ->required();
  command->add_option("output", o->out, "The safetensors file to write")->required();
  command->add_option("--op", o->op, "One of " + operator_names());
  command->add_option("--prefix", o->prefix, "Of the names in the input, as in layer0.");
  for (const Flag& flag : kFlags) {
    GivenFlag& given = o->flags.emplace_back(GivenFlag{&flag, "", nullptr});
    given.option = flag.is_switch ? command->add_flag(flag.flags, given.text, flag.help)
                                  : command->add_option(flag.flags, given.text, flag.help);
  }
  command->add_flag("--no-final-state", o->no_final_state,
                    "Of chunk, recurrent and causal_conv1d: leave it out");
  add_threads(command, &o->threads);
  add_kernel(command, &o->kernel);
  add_json(command, &o->json);
  command->footer(
      "Examples:\n  gdn run in.safetensors out.safetensors --op chunk --layout vk --l2norm\n  gdn "
      "run data/gdn_captures.safetensors out.safetensors --op recurrent --prefix layer0. --layout "
      "vk --l2norm");
  command->callback([=] { *action = [=] { return run(*o); }; });
}

}  // namespace gdn::tools
