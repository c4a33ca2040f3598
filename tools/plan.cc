// gdn plan: what a call would do. The arguments are made as a caller would make them and go through
// the library's own checks; their tensors lie at addresses that nobody reads.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "command.h"
#include "table.h"

namespace gdn::tools {
namespace {

struct Options {
  Op op = Op::kChunk;
  std::string dtype = "fp32", state_dtype = "fp32", layout = "vk", compute = "auto",
              context_split = "auto", kernel;
  int64_t tokens = 2048, sequences = 1, heads = 16, value_heads = 32, K = 128, V = 128;
  int64_t rows = 2048, D = 128, channels = 8192, W = 4, matrices = 1024, n = 64;
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

void put_context_split(const Options& o, ChunkArgs* args) {
  args->context_split = o.context_split == "auto"    ? ContextSplit::kAuto
                        : o.context_split == "fixed" ? ContextSplit::kFixed
                                                     : ContextSplit::kOff;
}
void put_context_split(const Options&, RecurrentArgs*) {}

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
  put_context_split(o, &args);
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
  const Lengths l = lengths_of(o);
  Addresses memory;
  const DType dtype = dtype_named(o.dtype);
  switch (o.op) {
    case Op::kChunk:
      return plan_delta_rule<ChunkArgs>(context, o, plan);
    case Op::kRecurrent:
      return plan_delta_rule<RecurrentArgs>(context, o, plan);
    case Op::kReplayVerify: {
      ReplayVerifyArgs args(layout_of(o));
      fill_tokens(o, l, memory, &args);
      const auto accepted = fill_records(o, l, memory, &args);
      return gdn::plan(context, args, plan);
    }
    case Op::kReplayCommit: {
      ReplayCommitArgs args(layout_of(o));
      const auto accepted = fill_records(o, l, memory, &args);
      return gdn::plan(context, args, plan);
    }
    case Op::kGating: {
      GatingArgs args;
      args.a = memory.tensor(dtype, {1, o.tokens, o.value_heads});
      args.b = memory.tensor(dtype, {1, o.tokens, o.value_heads});
      args.A_log = memory.tensor(DType::kF32, {o.value_heads});
      args.dt_bias = memory.tensor(DType::kF32, {o.value_heads});
      args.g = memory.tensor(DType::kF32, {1, o.tokens, o.value_heads});
      args.beta = memory.tensor(DType::kF32, {1, o.tokens, o.value_heads});
      return gdn::plan(context, args, plan);
    }
    case Op::kL2norm: {
      L2normArgs args;
      args.x = memory.tensor(dtype, {o.rows, o.D});
      args.y = memory.tensor(dtype, {o.rows, o.D});
      return gdn::plan(context, args, plan);
    }
    case Op::kRmsNormGated: {
      RmsNormGatedArgs args;
      for (TensorView* view : {&args.x, &args.z, &args.y}) {
        *view = memory.tensor(dtype, {o.rows, o.D});
      }
      args.weight = memory.tensor(DType::kF32, {o.D});
      return gdn::plan(context, args, plan);
    }
    case Op::kCausalConv1d: {
      CausalConv1dArgs args;
      args.x = memory.tensor(dtype, {l.batch, l.tokens, o.channels});
      args.y = memory.tensor(dtype, {l.batch, l.tokens, o.channels});
      args.weight = memory.tensor(DType::kF32, {o.channels, o.W});
      args.cu_seqlens = cu_seqlens_view(l);
      args.initial_state = args.final_state = memory.tensor(
          dtype_named(o.state_dtype), {l.sequences, o.channels, std::max<int64_t>(o.W - 1, 0)});
      return gdn::plan(context, args, plan);
    }
    case Op::kSolveTril: {
      SolveTrilArgs args;
      args.lower = memory.tensor(dtype, {o.matrices, o.n, o.n});
      args.inverse = memory.tensor(dtype, {o.matrices, o.n, o.n});
      return gdn::plan(context, args, plan);
    }
  }
  return {};
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
    out["first_segment_tokens"] = plan.first_segment_tokens;
    out["segment_tokens"] = plan.segment_tokens;
    out["segments_walked_once"] = plan.segments_walked_once;
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
  table.add({"first segment tokens", std::to_string(plan.first_segment_tokens)});
  table.add({"segment tokens", std::to_string(plan.segment_tokens)});
  table.add({"segments walked once", plan.segments_walked_once ? "yes" : "no"});
  table.add({"tasks", std::to_string(plan.tasks)});
  table.add({"workers", std::to_string(plan.workers)});
  table.add({"workspace bytes per worker", std::to_string(plan.workspace_bytes_per_worker)});
  table.add({"workspace bytes", std::to_string(plan.workspace_bytes)});
  table.print();
  return kSuccess;
}

// The flags, each with the operators that it has a meaning for.
class Flags {
 public:
  Flags(CLI::App* command, Options* options) : command_(command), o_(options) {}

  void sequences() {
    CLI::Option* tokens = count("--tokens,-T", &o_->tokens, "Tokens of each sequence", kTokens);
    CLI::Option* sequences =
        count("--sequences,-N", &o_->sequences, "Sequences, each a row of the batch", 1 << 16);
    command_->add_option("--lengths", o_->lengths, "Lengths of packed sequences, as in 700,129,64")
        ->delimiter(',')
        ->check(CLI::Range(int64_t{0}, kTokens))
        ->excludes(tokens)
        ->excludes(sequences);
  }
  void heads() {
    count("--heads", &o_->heads, "q/k heads", kHeads);
    count("--value-heads", &o_->value_heads, "Value heads, a multiple of the q/k heads", kHeads);
    count("--k,-K", &o_->K, "Head dimension of q and k, 1 to 256", kDim);
    count("--v,-V", &o_->V, "Head dimension of v, 1 to 256", kDim);
  }
  void states() {
    add_dtype(command_, "--state-dtype", &o_->state_dtype, "Of the states");
    command_->add_option("--layout", o_->layout, "Last axes of a state")
        ->check(CLI::IsMember({"vk", "kv"}))
        ->capture_default_str();
  }
  void dtype(const char* of) { add_dtype(command_, "--dtype", &o_->dtype, of); }
  void compute() {
    command_->add_option("--compute", o_->compute, "Operands of the matrix products")
        ->check(CLI::IsMember({"auto", "fp32", "bf16"}))
        ->capture_default_str();
  }
  void context_split() {
    command_
        ->add_option("--context-split", o_->context_split,
                     "Whether a GPU walks long sequences in segments")
        ->check(CLI::IsMember({"auto", "fixed", "off"}))
        ->capture_default_str();
  }
  void rows() {
    count("--rows", &o_->rows, "Rows to normalise: tokens times heads", int64_t{1} << 32);
    count("--dim,-D", &o_->D, "Elements of a row", kTokens);
    dtype("Of the tensors");
  }

  void of(Op op) {
    switch (op) {
      case Op::kChunk:
      case Op::kRecurrent:
      case Op::kReplayVerify:
        sequences();
        heads();
        dtype("Of q, k, v and the output");
        states();
        if (op != Op::kReplayVerify) compute();
        if (op == Op::kChunk) context_split();
        break;
      case Op::kReplayCommit:
        count("--tokens,-T", &o_->tokens, "Records of a slot", kTokens);
        count("--sequences,-N", &o_->sequences, "Sequences", 1 << 16);
        heads();
        dtype("Of the records of k and v");
        states();
        break;
      case Op::kGating:
        count("--tokens,-T", &o_->tokens, "Tokens in all", kTokens);
        count("--value-heads", &o_->value_heads, "Value heads", kHeads);
        dtype("Of a and b");
        break;
      case Op::kL2norm:
      case Op::kRmsNormGated:
        rows();
        break;
      case Op::kCausalConv1d:
        sequences();
        count("--channels,-D", &o_->channels, "Channels: q, k and v together", kTokens);
        count("--width,-W", &o_->W, "Of the convolution, 1 to 8", kDim);
        dtype("Of the inputs and outputs");
        add_dtype(command_, "--state-dtype", &o_->state_dtype, "Of the states");
        break;
      case Op::kSolveTril:
        count("--matrices", &o_->matrices, "Matrices: chunks times value heads", int64_t{1} << 32);
        count("--size,-n", &o_->n, "Rows of a matrix, 1 to 256", kDim);
        dtype("Of the matrices");
        break;
    }
    add_threads(command_, &o_->threads);
    add_kernel(command_, &o_->kernel);
    add_json(command_, &o_->json);
  }

 private:
  // Beyond what an operator takes, so that its own check is what people see.
  static constexpr int64_t kTokens = 1 << 24, kHeads = 1 << 12, kDim = 1 << 12;

  CLI::Option* count(const char* name, int64_t* value, const char* help, int64_t most) {
    return command_->add_option(name, *value, help)
        ->check(CLI::Range(int64_t{0}, most).description(""))
        ->capture_default_str();
  }

  CLI::App* command_;
  Options* o_;
};

struct Operator {
  Op op;
  const char* what;
};
constexpr Operator kOperators[] = {
    {Op::kChunk, "Prefill"},
    {Op::kRecurrent, "Decode"},
    {Op::kReplayVerify, "Speculative decode with records"},
    {Op::kReplayCommit, "Records into states"},
    {Op::kGating, "Decays and write strengths"},
    {Op::kL2norm, "Norm of q and k"},
    {Op::kRmsNormGated, "Norm and gate at the end of a layer"},
    {Op::kCausalConv1d, "Convolution before q, k and v"},
    {Op::kSolveTril, "Inverses of triangular matrices"},
};

}  // namespace

void add_plan(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand(
      "plan", "What a call of an operator would do for a shape: kernel, split, workspace");
  command->require_subcommand(1);
  for (const Operator& each : kOperators) {
    const std::string name = std::string(name_of(each.op)).substr(std::string("gdn.").size());
    CLI::App* of = command->add_subcommand(name, each.what);
    const auto o = std::make_shared<Options>();
    o->op = each.op;
    if (each.op == Op::kRecurrent) o->tokens = 1, o->sequences = 64;
    if (each.op == Op::kReplayVerify || each.op == Op::kReplayCommit) {
      o->tokens = 4, o->sequences = 64;
    }
    Flags(of, o.get()).of(each.op);
    of->callback([=] { *action = [=] { return run(*o); }; });
  }
  command->footer(
      "Each operator has its own flags: gdn plan chunk --help.\nExamples:\n  gdn plan chunk "
      "--tokens 2048 --heads 16 --value-heads 32 --dtype bf16\n  gdn plan solve_tril --matrices "
      "1024 --size 64 --json");
}

}  // namespace gdn::tools
