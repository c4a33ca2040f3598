// Google Benchmark of the operators, one thread, every kernel that runs here, at the sizes of a
// Qwen3-Next layer: 16 q/k heads, 32 value heads, d 128. `gdn bench` compares with peaks and with
// many threads; this is for working on one kernel.
#include <benchmark/benchmark.h>

#include <string>

#include "gdn/gdn.h"
#include "verify/inputs.h"

namespace {

using gdn::Context;
using gdn::DType;
using gdn::Status;
using gdn::verify::Case;
using gdn::verify::DeltaRuleData;
using gdn::verify::Random;
using gdn::verify::Tensor;

Case layer(const std::string& rest) {
  Case c;
  const Status status = gdn::verify::parse("H=16 HV=32 K=128 V=128 l2norm=1 " + rest, &c);
  if (!status.ok()) c.lengths.clear();  // nothing to do: seen as zero time
  return c;
}

// Calls run() as often as wanted; items are what it works on.
template <class Run>
void measure(benchmark::State& state, int64_t items, const Run& run) {
  for (auto _ : state) {
    if (const Status status = run(); !status.ok()) {
      state.SkipWithError(status.message().c_str());
      break;
    }
  }
  state.SetItemsProcessed(state.iterations() * items);
}

// A workspace of the caller's, so that no allocation is timed.
class Workspace {
 public:
  Workspace(Context* context, const gdn::Plan& plan)
      : memory_(DType::kBool, {static_cast<int64_t>(plan.workspace_bytes)}) {
    context->workspace = memory_.view().data;
    context->workspace_bytes = plan.workspace_bytes;
  }

 private:
  Tensor memory_;
};

template <class Args, class Operator>
void measure_planned(benchmark::State& state, Context context, const Args& args, int64_t items,
                     const Operator& run) {
  gdn::Plan plan;
  if (const Status status = gdn::plan(context, args, &plan); !status.ok()) {
    state.SkipWithError(status.message().c_str());
    return;
  }
  const Workspace workspace(&context, plan);
  measure(state, items, [&] { return run(context, args); });
}

void chunk(benchmark::State& state, const char* kernel, const char* dtype) {
  const DeltaRuleData data = gdn::verify::make_delta_rule(
      layer("op=chunk T=" + std::to_string(state.range(0)) + " dtype=" + dtype));
  Context context;
  context.kernel = kernel;
  measure_planned(state, context, data.chunk_args(), state.range(0), &gdn::chunk);
}

void recurrent(benchmark::State& state, const char* kernel, const char* dtype) {
  const DeltaRuleData data =
      gdn::verify::make_delta_rule(layer("op=recurrent T=1 N=" + std::to_string(state.range(0)) +
                                         " indices=pool32 states=in_place dtype=" + dtype));
  Context context;
  context.kernel = kernel;
  measure_planned(state, context, data.recurrent_args(), state.range(0), &gdn::recurrent);
}

Tensor normals(DType dtype, std::vector<int64_t> shape) {
  Random random(1);
  Tensor tensor(dtype, std::move(shape));
  for (int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, random.normal());
  return tensor;
}

constexpr int64_t kRows = 2048, kValueHeads = 32, kDim = 128, kMatrix = 64;

void gating(benchmark::State& state, const char* kernel, const char*) {
  const Tensor a = normals(DType::kBF16, {1, kRows, kValueHeads}), b = a.clone();
  const Tensor A_log = normals(DType::kF32, {kValueHeads}), dt_bias = A_log.clone();
  const Tensor g(DType::kF32, a.shape()), beta(DType::kF32, a.shape());
  gdn::GatingArgs args;
  args.a = a.view();
  args.b = b.view();
  args.A_log = A_log.view();
  args.dt_bias = dt_bias.view();
  args.g = g.view();
  args.beta = beta.view();
  Context context;
  context.kernel = kernel;
  measure_planned(state, context, args, kRows, &gdn::gating);
}

void l2norm(benchmark::State& state, const char* kernel, const char*) {
  const Tensor x = normals(DType::kBF16, {kRows, kDim}), y(DType::kBF16, x.shape());
  gdn::L2normArgs args;
  args.x = x.view();
  args.y = y.view();
  Context context;
  context.kernel = kernel;
  measure_planned(state, context, args, kRows, &gdn::l2norm);
}

void solve_tril(benchmark::State& state, const char* kernel, const char*) {
  Tensor lower = normals(DType::kF32, {kValueHeads, kMatrix, kMatrix});
  for (int64_t i = 0; i < lower.size(); ++i) lower.set(i, 0.1 * lower.get(i));
  const Tensor inverse(DType::kF32, lower.shape());
  gdn::SolveTrilArgs args;
  args.lower = lower.view();
  args.inverse = inverse.view();
  Context context;
  context.kernel = kernel;
  measure_planned(state, context, args, kValueHeads, &gdn::solve_tril);
}

void add(const std::string& name, const char* kernel, const char* dtype,
         void (*run)(benchmark::State&, const char*, const char*), std::vector<int64_t> sizes) {
  const std::string full = name + "/" + kernel + (*dtype ? std::string("/") + dtype : "");
  auto* added = benchmark::RegisterBenchmark(
      full.c_str(), [=](benchmark::State& state) { run(state, kernel, dtype); });
  for (int64_t size : sizes) added->Arg(size);
  added->Unit(benchmark::kMicrosecond);
}

}  // namespace

int main(int argc, char** argv) {
  for (const gdn::KernelInfo& kernel : gdn::kernels()) {
    if (!kernel.supported || kernel.backend == "reference") continue;
    for (const char* dtype : {"f32", "bf16"}) {
      add("chunk", kernel.name.data(), dtype, &chunk, {512});
      add("recurrent", kernel.name.data(), dtype, &recurrent, {1, 16});
    }
    add("gating", kernel.name.data(), "", &gating, {});
    add("l2norm", kernel.name.data(), "", &l2norm, {});
    add("solve_tril", kernel.name.data(), "", &solve_tril, {});
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
