// gdn plan: what a call would do. The arguments are made as a caller would make them and go through
// the library's own checks; their tensors lie at addresses that nobody reads.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "command.h"
#include "table.h"

namespace gdn::tools {
namespace {

struct Options {
  std::string op = "chunk", dtype = "fp32", state_dtype = "fp32", layout = "vk", compute = "auto";
  std::string kernel;
  int64_t tokens = 2048, sequences = 1, heads = 16, value_heads = 32, K = 128, V = 128;
  std::vector<int64_t> lengths;
  int threads = 0;
  bool json = false;
};

// Address space without memory: distinct, aligned, never touched.
class Addresses {
 public:
  TensorView tensor(DType dtype, std::initializer_list<int64_t> extents) {
    double elements = 1;
    for (int64_t extent : extents) elements *= static_cast<double>(extent);
    if (elements > kMaxElements) throw Mistake("tensors of this shape fit in no memory");
    const TensorView view(reinterpret_cast<void*>(next_), dtype, extents);
    next_ += (static_cast<uintptr_t>(view.size() * size_of(dtype)) + 4095) / 4096 * 4096;
    return view;
  }

 private:
  static constexpr double kMaxElements = 0x1p40;  // a few such tensors stay below 2^47 bytes
  uintptr_t next_ = uintptr_t{1} << 40;
};

StateLayout layout_of(const Options& o) {
  return o.layout == "vk" ? StateLayout::kVK : StateLayout::kKV;
}

TensorView state_view(const Options& o, Addresses& memory, int64_t slots) {
  return o.layout == "vk"
             ? memory.tensor(dtype_named(o.state_dtype), {slots, o.value_heads, o.V, o.K})
             : memory.tensor(dtype_named(o.state_dtype), {slots, o.value_heads, o.K, o.V});
}

struct Lengths {
  int64_t sequences, batch, tokens;  // tokens of a batch row
  std::vector<int64_t> cu_seqlens;   // empty: rows are sequences
};

Lengths lengths_of(const Options& o) {
  if (o.lengths.empty()) return {o.sequences, o.sequences, o.tokens, {}};
  Lengths l{static_cast<int64_t>(o.lengths.size()), 1, 0, {0}};
  for (int64_t length : o.lengths) l.cu_seqlens.push_back(l.tokens += length);
  return l;
}

TensorView cu_seqlens_view(const Lengths& l) {
  if (l.cu_seqlens.empty()) return {};
  return {l.cu_seqlens.data(), {static_cast<int64_t>(l.cu_seqlens.size())}};
}

template <class Args>
void fill_tokens(const Options& o, const Lengths& l, Addresses& memory, Args* args) {
  const DType dtype = dtype_named(o.dtype);
  args->q = memory.tensor(dtype, {l.batch, l.tokens, o.heads, o.K});
  args->k = memory.tensor(dtype, {l.batch, l.tokens, o.heads, o.K});
  args->v = memory.tensor(dtype, {l.batch, l.tokens, o.value_heads, o.V});
  args->out = memory.tensor(dtype, {l.batch, l.tokens, o.value_heads, o.V});
  args->g = memory.tensor(DType::kF32, {l.batch, l.tokens, o.value_heads});
  args->beta = memory.tensor(DType::kF32, {l.batch, l.tokens, o.value_heads});
  args->cu_seqlens = cu_seqlens_view(l);
}

template <class Args>
Status plan_delta_rule(const Context& context, const Options& o, Plan* plan) {
  const Lengths l = lengths_of(o);
  Addresses memory;
  Args args(layout_of(o));
  fill_tokens(o, l, memory, &args);
  args.initial_state = args.final_state = state_view(o, memory, l.sequences);
  args.compute = o.compute == "auto"   ? Compute::kAuto
                 : o.compute == "bf16" ? Compute::kBF16
                                       : Compute::kF32;
  return gdn::plan(context, args, plan);
}

template <class Args>
std::vector<int64_t> fill_records(const Options& o, const Lengths& l, Addresses& memory,
                                  Args* args) {
  std::vector<int64_t> accepted(static_cast<size_t>(l.sequences), 0);
  int64_t longest = l.cu_seqlens.empty() ? l.tokens : 1;
  for (int64_t length : o.lengths) longest = std::max(longest, length);
  const DType dtype = dtype_named(o.dtype);
  args->state = state_view(o, memory, l.sequences);
  args->num_accepted = TensorView(accepted.data(), {l.sequences});
  args->record_k = memory.tensor(dtype, {l.sequences, longest, o.heads, o.K});
  args->record_v = memory.tensor(dtype, {l.sequences, longest, o.value_heads, o.V});
  args->record_g = memory.tensor(DType::kF32, {l.sequences, longest, o.value_heads});
  return accepted;
}

Status plan_of(const Context& context, const Options& o, Plan* plan) {
  if (o.op == "chunk") return plan_delta_rule<ChunkArgs>(context, o, plan);
  if (o.op == "recurrent") return plan_delta_rule<RecurrentArgs>(context, o, plan);
  const Lengths l = lengths_of(o);
  Addresses memory;
  const DType dtype = dtype_named(o.dtype);
  if (o.op == "replay_verify") {
    ReplayVerifyArgs args(layout_of(o));
    fill_tokens(o, l, memory, &args);
    const auto accepted = fill_records(o, l, memory, &args);
    return gdn::plan(context, args, plan);
  }
  if (o.op == "replay_commit") {
    ReplayCommitArgs args(layout_of(o));
    const auto accepted = fill_records(o, l, memory, &args);
    return gdn::plan(context, args, plan);
  }
  if (o.op == "gating") {
    GatingArgs args;
    args.a = memory.tensor(dtype, {l.batch, l.tokens, o.value_heads});
    args.b = memory.tensor(dtype, {l.batch, l.tokens, o.value_heads});
    args.A_log = memory.tensor(DType::kF32, {o.value_heads});
    args.dt_bias = memory.tensor(DType::kF32, {o.value_heads});
    args.g = memory.tensor(DType::kF32, {l.batch, l.tokens, o.value_heads});
    args.beta = memory.tensor(DType::kF32, {l.batch, l.tokens, o.value_heads});
    return gdn::plan(context, args, plan);
  }
  if (o.op == "l2norm") {
    L2normArgs args;
    args.x = memory.tensor(dtype, {l.batch, l.tokens, o.heads, o.K});
    args.y = memory.tensor(dtype, {l.batch, l.tokens, o.heads, o.K});
    return gdn::plan(context, args, plan);
  }
  if (o.op == "rms_norm_gated") {
    RmsNormGatedArgs args;
    for (TensorView* view : {&args.x, &args.z, &args.y}) {
      *view = memory.tensor(dtype, {l.batch, l.tokens, o.value_heads, o.V});
    }
    args.weight = memory.tensor(DType::kF32, {o.V});
    return gdn::plan(context, args, plan);
  }
  if (o.op == "causal_conv1d") {  // of q, k and v together, width 4
    const int64_t channels = 2 * o.heads * o.K + o.value_heads * o.V;
    CausalConv1dArgs args;
    args.x = memory.tensor(dtype, {l.batch, l.tokens, channels});
    args.y = memory.tensor(dtype, {l.batch, l.tokens, channels});
    args.weight = memory.tensor(DType::kF32, {channels, 4});
    args.cu_seqlens = cu_seqlens_view(l);
    args.initial_state = args.final_state =
        memory.tensor(dtype_named(o.state_dtype), {l.sequences, channels, 3});
    return gdn::plan(context, args, plan);
  }
  SolveTrilArgs args;  // one matrix of 64 x 64 for every chunk of 64 tokens and value head
  const int64_t matrices = (l.batch * l.tokens + 63) / 64;
  args.lower = memory.tensor(dtype, {matrices, o.value_heads, 64, 64});
  args.inverse = memory.tensor(dtype, {matrices, o.value_heads, 64, 64});
  return gdn::plan(context, args, plan);
}

int run(const Options& o) {
  const Threads threads = make_threads(o.threads);
  Context context;
  context.executor = threads.executor.get();
  context.kernel = o.kernel.empty() ? nullptr : o.kernel.c_str();
  Plan plan;
  require(plan_of(context, o, &plan));
  const char* compute = plan.compute == Compute::kBF16 ? "bf16" : "fp32";
  if (o.json) {
    nlohmann::ordered_json out;
    out["op"] = name_of(plan.op);
    out["backend"] = plan.backend;
    out["kernel"] = plan.kernel;
    out["reason"] = plan.reason;
    out["compute"] = compute;
    out["chunk"] = plan.chunk;
    out["parts"] = plan.parts;
    out["tasks"] = plan.tasks;
    out["workers"] = plan.workers;
    out["workspace_bytes_per_worker"] = plan.workspace_bytes_per_worker;
    out["workspace_bytes"] = plan.workspace_bytes;
    std::printf("%s\n", out.dump(2).c_str());
    return kSuccess;
  }
  std::printf("%s\n\n", to_string(plan).c_str());
  Table table({"field", "value"});
  table.add({"op", name_of(plan.op)});
  table.add({"backend", std::string(plan.backend)});
  table.add({"kernel", std::string(plan.kernel)});
  table.add({"reason", std::string(plan.reason)});
  table.add({"compute", compute});
  table.add({"chunk", std::to_string(plan.chunk)});
  table.add({"parts", std::to_string(plan.parts)});
  table.add({"tasks", std::to_string(plan.tasks)});
  table.add({"workers", std::to_string(plan.workers)});
  table.add({"workspace bytes per worker", std::to_string(plan.workspace_bytes_per_worker)});
  table.add({"workspace bytes", std::to_string(plan.workspace_bytes)});
  table.print();
  return kSuccess;
}

}  // namespace

void add_plan(CLI::App& app, Action* action) {
  CLI::App* command =
      app.add_subcommand("plan", "What a call of this shape would do: kernel, split, workspace");
  const auto o = std::make_shared<Options>();
  command->add_option("--op", o->op, "Operator")
      ->check(CLI::IsMember({"chunk", "recurrent", "replay_verify", "replay_commit", "gating",
                             "l2norm", "rms_norm_gated", "causal_conv1d", "solve_tril"}))
      ->capture_default_str();
  const CLI::Range count(int64_t{0}, int64_t{1} << 24), heads(int64_t{0}, int64_t{1} << 12);
  CLI::Option* tokens = command->add_option("--tokens,-T", o->tokens, "Tokens of each sequence")
                            ->check(count)
                            ->capture_default_str();
  CLI::Option* sequences =
      command->add_option("--sequences,-N", o->sequences, "Sequences, each a row of the batch")
          ->check(CLI::Range(int64_t{0}, int64_t{1} << 16))
          ->capture_default_str();
  command->add_option("--lengths", o->lengths, "Lengths of packed sequences, as in 700,129,64")
      ->delimiter(',')
      ->check(count)
      ->excludes(tokens)
      ->excludes(sequences);
  command->add_option("--heads", o->heads, "q/k heads")->check(heads)->capture_default_str();
  command->add_option("--value-heads", o->value_heads, "Value heads, a multiple of the q/k heads")
      ->check(heads)
      ->capture_default_str();
  command->add_option("--k,-K", o->K, "Head dimension of q and k")
      ->check(heads)
      ->capture_default_str();
  command->add_option("--v,-V", o->V, "Head dimension of v")->check(heads)->capture_default_str();
  add_dtype(command, "--dtype", &o->dtype, "Of q, k, v and the output");
  add_dtype(command, "--state-dtype", &o->state_dtype, "Of the states");
  command->add_option("--layout", o->layout, "Last axes of a state")
      ->check(CLI::IsMember({"vk", "kv"}))
      ->capture_default_str();
  command->add_option("--compute", o->compute, "Operands of the matrix products")
      ->check(CLI::IsMember({"auto", "fp32", "bf16"}))
      ->capture_default_str();
  add_threads(command, &o->threads);
  add_kernel(command, &o->kernel);
  add_json(command, &o->json);
  command->footer(
      "Example:\n  gdn plan --op chunk --tokens 2048 --heads 16 --value-heads 32 --dtype bf16");
  command->callback([=] { *action = [=] { return run(*o); }; });
}

}  // namespace gdn::tools
