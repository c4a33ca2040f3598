// gdn bench: how fast prefill and decode are, and what share that is of what the machine gives in
// the same minute. Operator and peak take turns, in rounds of some tens of milliseconds: clocks
// and neighbours change, and then they change for both.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <string>

#include "benchmarks/peak.h"
#include "command.h"
#include "half.h"
#include "processor.h"
#include "progress.h"
#include "stopwatch.h"
#include "table.h"
#include "verify/inputs.h"

namespace gdn::tools {
namespace {

using benchmarks::ComputeProbe;
using benchmarks::MemoryProbe;

struct Options {
  std::vector<std::string> ops = {"prefill", "decode", "causal_conv1d", "rms_norm_gated"};
  std::vector<std::string> dtypes = {"fp32", "bf16"};
  std::vector<int64_t> tokens = {512, 2048, 8192};
  std::vector<int64_t> lengths;
  std::vector<int64_t> sequences = {1, 64, 256};
  std::string shape = "H=16,HV=32,K=128,V=128";
  std::string state_dtype = "fp32", layout = "vk", kernel;
  int threads = 0;
  double min_time = 0.3;
  bool json = false;
};

struct Heads {
  int64_t H = 16, HV = 32, K = 128, V = 128;
};

// "H=16,HV=32,K=128,V=128", in any order, any of them.
Heads parse_heads(const std::string& shape) {
  verify::Case c;
  c.H = 16, c.HV = 32, c.K = 128, c.V = 128;
  parse_shape(shape, {"H", "HV", "K", "V"}, &c);
  return {c.H, c.HV, c.K, c.V};
}

// Memory of a tensor: aligned, touched, filled with normal numbers.
class Memory {
 public:
  Memory(DType dtype, int64_t elements) : bytes_(static_cast<size_t>(elements * size_of(dtype))) {
    data_ = static_cast<std::byte*>(::operator new(std::max<size_t>(64, bytes_), kAlignment));
    std::memset(data_, 0, bytes_);
  }
  ~Memory() { ::operator delete(data_, kAlignment); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  size_t bytes_;
  std::byte* data_;
};

// The tensors of one call, filled by `draw` from a block of numbers that is used over and over:
// what the values are does not matter to the time, as long as they are usual ones.
class Tensors {
 public:
  template <class Draw>
  TensorView make(DType dtype, std::initializer_list<int64_t> extents, const Draw& draw) {
    TensorView view(nullptr, dtype, extents);
    memory_.push_back(std::make_unique<Memory>(dtype, view.size()));
    view.data = memory_.back()->data();
    constexpr int64_t kBlock = 1 << 16;
    const int64_t block = std::min(view.size(), kBlock);
    const int64_t element = size_of(dtype);
    std::byte* p = memory_.back()->data();
    for (int64_t i = 0; i < block; ++i) {
      store_float(p + i * element, dtype, static_cast<float>(draw(random_)));
    }
    for (int64_t i = block; i < view.size(); i += block) {
      std::memcpy(p + i * element, p,
                  static_cast<size_t>(std::min(block, view.size() - i) * element));
    }
    return view;
  }
  TensorView make(DType dtype, std::initializer_list<int64_t> extents) {
    return make(dtype, extents, [](verify::Random& random) { return random.normal(); });
  }
  const Memory& last() const { return *memory_.back(); }

 private:
  verify::Random random_{1};
  std::vector<std::unique_ptr<Memory>> memory_;
};

// One line of the result.
struct Work {
  std::string op, name;
  DType dtype;
  int64_t sequences = 0, tokens = 0;
  std::vector<int64_t> lengths;  // packed prefill
};

struct Result {
  Work work;
  Plan plan;
  Quantiles seconds;
  double tokens_per_second = 0;
  double rate = 0;  // FLOP/s, or bytes per second: of states, or of the token's inputs and outputs
  std::string peak_name;
  double peak = 0;  // 0: not known for this kernel
  bool memory() const { return work.op != "prefill"; }
  double share() const { return peak > 0 ? rate / peak : 0; }
};

// FLOPs are counted as those of chunks of 32 with full squares, whatever a kernel does, so that
// numbers of different kernels compare: per token and value head 6 K V + 64 (2 K / r + 2 V).
double prefill_flops(const Heads& h, int64_t tokens) {
  const double K = static_cast<double>(h.K), V = static_cast<double>(h.V);
  const double r = static_cast<double>(h.HV / h.H);
  return static_cast<double>(tokens * h.HV) * (6 * K * V + 64 * (2 * K / r + 2 * V));
}

StateLayout layout_of(const Options& o) {
  return o.layout == "vk" ? StateLayout::kVK : StateLayout::kKV;
}

TensorView make_states(const Options& o, const Heads& h, int64_t slots, Tensors* tensors) {
  const auto draw = [](verify::Random& random) { return 0.1 * random.normal(); };
  const DType dtype = dtype_named(o.state_dtype);
  return o.layout == "vk" ? tensors->make(dtype, {slots, h.HV, h.V, h.K}, draw)
                          : tensors->make(dtype, {slots, h.HV, h.K, h.V}, draw);
}

// q, k, v, gates and output of B rows of T tokens: a layer's usual values, norms inside.
template <class Args>
void make_tokens(const Heads& h, DType dtype, int64_t B, int64_t T, Tensors* tensors, Args* args) {
  args->q = tensors->make(dtype, {B, T, h.H, h.K});
  args->k = tensors->make(dtype, {B, T, h.H, h.K});
  args->v = tensors->make(dtype, {B, T, h.HV, h.V});
  args->out = tensors->make(dtype, {B, T, h.HV, h.V});
  args->g = tensors->make(DType::kF32, {B, T, h.HV}, [](verify::Random& random) {
    return -std::log1p(std::exp(random.normal() - 2));
  });
  args->beta = tensors->make(DType::kF32, {B, T, h.HV}, [](verify::Random& random) {
    return 1 / (1 + std::exp(-random.normal()));
  });
  args->use_qk_l2norm = true;
}

// Calls and probes in turn. `call` returns a Status; each of `probes` a rate; what comes back are
// seconds a call, and the best that each probe saw: a peak is what can be, so whatever disturbs a
// probe does not count. Untimed calls go before timed ones, first and behind probes, for `settling`
// seconds where these are shorter than that: stores that go past the caches leave nothing there,
// and 134 MB take some eight calls to be in a shared cache again.
template <class Call, class Probe>
std::pair<Quantiles, std::vector<double>> measure(double min_time, double settling,
                                                  const Call& call,
                                                  const std::vector<Probe>& probes) {
  constexpr double kRound = 20e-3;  // half as long as what goes before it
  constexpr size_t kMinCalls = 5;
  constexpr int kMinProbes = 10;   // a disturbed peak is too low: give it chances
  constexpr double kPatience = 4;  // times min_time, after which fewer calls do
  std::vector<double> seconds;
  std::vector<double> peaks(probes.size());
  const auto probe = [&] {
    for (size_t i = 0; i < probes.size(); ++i) peaks[i] = std::max(peaks[i], probes[i]());
  };
  int rounds = 0;
  double total = 0;
  while (total < min_time || (seconds.size() < kMinCalls && total < kPatience * min_time)) {
    if (rounds == 0 || seconds.back() < settling) {
      const Stopwatch untimed;
      do {
        require(call());
      } while (untimed.seconds() < settling);
    }
    double round = 0;
    do {
      const Stopwatch watch;
      const Status status = call();
      seconds.push_back(watch.seconds());
      require(status);
      round += seconds.back();
    } while (round < kRound);
    total += round;
    probe();
    ++rounds;
  }
  for (; rounds < kMinProbes; ++rounds) probe();
  return {quantiles(std::move(seconds)), peaks};
}

constexpr double kSettling = 40e-3;  // behind loops over memory
using Rate = std::function<double()>;

// The call, in a workspace of the caller's so that nothing is allocated while the clock runs.
template <class Args, class Run>
auto prepared(Context* context, const Args& args, const Run& run, Plan* plan,
              std::unique_ptr<Memory>* workspace) {
  require(gdn::plan(*context, args, plan));
  *workspace = std::make_unique<Memory>(DType::kBool, static_cast<int64_t>(plan->workspace_bytes));
  context->workspace = (*workspace)->data();
  context->workspace_bytes = (*workspace)->bytes();
  return [context, &args, run] { return run(*context, args); };
}

Result prefill(const Options& o, const Heads& h, Context context, const Work& work) {
  Result result;
  result.work = work;
  Tensors tensors;
  ChunkArgs args(layout_of(o));
  make_tokens(h, work.dtype, 1, work.tokens, &tensors, &args);
  args.initial_state = make_states(o, h, work.sequences, &tensors);
  args.final_state = make_states(o, h, work.sequences, &tensors);
  std::vector<int64_t> cu_seqlens = {0};
  for (int64_t length : work.lengths) cu_seqlens.push_back(cu_seqlens.back() + length);
  if (!work.lengths.empty()) args.cu_seqlens = TensorView(cu_seqlens.data(), {work.sequences + 1});

  std::unique_ptr<Memory> workspace;
  const auto call = prepared(&context, args, &chunk, &result.plan, &workspace);
  const ComputeProbe* probe = result.plan.compute == Compute::kBF16
                                  ? benchmarks::bf16_probe(result.plan.kernel)
                                  : benchmarks::fp32_probe(result.plan.kernel);
  std::vector<Rate> probes;
  if (probe != nullptr)
    probes.push_back([&] { return benchmarks::rate(*probe, context.executor); });
  const auto [seconds, peaks] = measure(o.min_time, 0, call, probes);
  result.seconds = seconds;
  result.rate = prefill_flops(h, work.tokens) / seconds.median;
  if (probe != nullptr) {
    result.peak = peaks[0];
    result.peak_name = probe->what;
  }
  result.tokens_per_second = static_cast<double>(work.tokens) / seconds.median;
  return result;
}

// A call that walks through its tensors once, `bytes` in all, beside the memory's rate in place
// over `walked`.
template <class Args, class Run>
Result streamed(const Options& o, Context context, const Work& work, const Args& args,
                const Run& run, double bytes, const Memory& walked) {
  Result result;
  result.work = work;
  std::unique_ptr<Memory> workspace;
  const auto call = prepared(&context, args, run, &result.plan, &workspace);
  std::vector<Rate> probes;
  for (const MemoryProbe& probe : benchmarks::memory_probes()) {
    probes.push_back(
        [&] { return benchmarks::rate(probe, context.executor, walked.data(), walked.bytes()); });
  }
  const auto [seconds, peaks] = measure(o.min_time, kSettling, call, probes);
  result.seconds = seconds;
  result.rate = bytes / seconds.median;
  for (size_t i = 0; i < peaks.size(); ++i) {
    if (peaks[i] <= result.peak) continue;
    result.peak = peaks[i];
    result.peak_name = std::string("in-place memory, ") + benchmarks::memory_probes()[i].what;
  }
  result.tokens_per_second = static_cast<double>(work.tokens) / seconds.median;
  return result;
}

Result decode(const Options& o, const Heads& h, const Context& context, const Work& work) {
  Tensors tensors;
  RecurrentArgs args(layout_of(o));
  const int64_t N = work.sequences;
  make_tokens(h, work.dtype, N, 1, &tensors, &args);
  args.initial_state = args.final_state = make_states(o, h, N, &tensors);
  const Memory& states = tensors.last();
  // A pool whose slots are handed out in any order.
  std::vector<int32_t> slots;
  verify::Random random(2);
  for (int64_t slot : random.permutation(N)) slots.push_back(static_cast<int32_t>(slot));
  args.initial_state_indices = args.final_state_indices = TensorView(slots.data(), {N});

  return streamed(o, context, work, args, &recurrent, 2.0 * static_cast<double>(states.bytes()),
                  states);
}

// The convolution of q, k and v together, width 4 with SiLU.
Result convolution(const Options& o, const Heads& h, const Context& context, const Work& work) {
  const int64_t channels = 2 * h.H * h.K + h.HV * h.V;
  Tensors tensors;
  CausalConv1dArgs args;
  args.x = tensors.make(work.dtype, {1, work.tokens, channels});
  args.weight = tensors.make(DType::kF32, {channels, 4});
  args.silu = true;
  args.initial_state = args.final_state =
      tensors.make(dtype_named(o.state_dtype), {1, channels, 3});
  args.y = tensors.make(work.dtype, {1, work.tokens, channels});
  return streamed(o, context, work, args, &causal_conv1d,
                  2.0 * static_cast<double>(tensors.last().bytes()), tensors.last());
}

Result norm(const Options& o, const Heads& h, const Context& context, const Work& work) {
  Tensors tensors;
  RmsNormGatedArgs args;
  args.x = tensors.make(work.dtype, {work.tokens, h.HV, h.V});
  args.z = tensors.make(work.dtype, {work.tokens, h.HV, h.V});
  args.weight = tensors.make(DType::kF32, {h.V});
  args.y = tensors.make(work.dtype, {work.tokens, h.HV, h.V});
  return streamed(o, context, work, args, &rms_norm_gated,
                  3.0 * static_cast<double>(tensors.last().bytes()), tensors.last());
}

Result measure_work(const Options& o, const Heads& h, const Context& context, const Work& work) {
  if (work.op == "prefill") return prefill(o, h, context, work);
  if (work.op == "decode") return decode(o, h, context, work);
  return work.op == "causal_conv1d" ? convolution(o, h, context, work) : norm(o, h, context, work);
}

std::vector<Work> works_of(const Options& o) {
  std::vector<Work> works;
  for (const std::string& op : o.ops) {
    for (const std::string& dtype : o.dtypes) {
      if (op == "prefill") {
        for (int64_t tokens : o.tokens) {
          works.push_back(
              {op, "prefill " + std::to_string(tokens), dtype_named(dtype), 1, tokens, {}});
        }
        if (!o.lengths.empty()) {
          int64_t tokens = 0;
          for (int64_t length : o.lengths) tokens += length;
          works.push_back({op, "prefill of " + std::to_string(o.lengths.size()) + " packed",
                           dtype_named(dtype), static_cast<int64_t>(o.lengths.size()), tokens,
                           o.lengths});
        }
      } else if (op != "decode") {
        for (int64_t tokens : o.tokens) {
          works.push_back(
              {op, op + " " + std::to_string(tokens), dtype_named(dtype), 1, tokens, {}});
        }
      } else {
        for (int64_t sequences : o.sequences) {
          works.push_back({op,
                           "decode " + std::to_string(sequences),
                           dtype_named(dtype),
                           sequences,
                           sequences,
                           {}});
        }
      }
    }
  }
  return works;
}

nlohmann::ordered_json to_json(const Result& r) {
  nlohmann::ordered_json out;
  out["op"] = r.work.op;
  if (r.work.op != "decode") out["tokens"] = r.work.tokens;
  if (!r.work.lengths.empty()) out["lengths"] = r.work.lengths;
  out["sequences"] = r.work.sequences;
  out["dtype"] = short_name(r.work.dtype);
  out["kernel"] = r.plan.kernel;
  out["compute"] = r.plan.compute == Compute::kBF16 ? "bf16" : "fp32";
  out["calls"] = r.seconds.count;
  out["ms"] = {{"median", r.seconds.median * 1e3},
               {"min", r.seconds.min * 1e3},
               {"p10", r.seconds.p10 * 1e3},
               {"p90", r.seconds.p90 * 1e3}};
  out["tokens_per_second"] = r.tokens_per_second;
  out[r.memory() ? "gbyte_per_second" : "gflop_per_second"] = r.rate * 1e-9;
  if (r.peak > 0) {
    out["peak"] = {{"what", r.peak_name},
                   {r.memory() ? "gbyte_per_second" : "gflop_per_second", r.peak * 1e-9}};
    out["share_of_peak"] = r.share();
  }
  return out;
}

void print(const std::vector<Result>& results) {
  Table table({"work", "dtype", "kernel", "products", ">median ms", ">min", ">p10", ">p90",
               ">tokens/s", ">rate", "", ">of peak", "peak"});
  const auto ms = [](double seconds) {
    return text(seconds < 1e-3 ? "%.4f" : seconds < 0.1 ? "%.3f" : "%.1f", seconds * 1e3);
  };
  for (const Result& r : results) {
    const char* unit = r.memory() ? "GB/s" : "GFLOP/s";
    table.add({r.work.name, short_name(r.work.dtype), std::string(r.plan.kernel),
               r.plan.compute == Compute::kBF16 ? "bf16" : "fp32", ms(r.seconds.median),
               ms(r.seconds.min), ms(r.seconds.p10), ms(r.seconds.p90),
               text("%.0f", r.tokens_per_second), text("%.1f", r.rate * 1e-9), unit,
               r.peak > 0 ? text("%.0f %%", 100 * r.share()) : "-",
               r.peak > 0 ? text("%.0f %s (%s)", r.peak * 1e-9, unit, r.peak_name.c_str()) : "-"});
  }
  table.print();
  const bool busy = std::any_of(results.begin(), results.end(), [](const Result& r) {
    return r.seconds.median > 1.5 * r.seconds.min;
  });
  if (busy) {
    std::printf(
        "\nSome medians are far above their minimum: the processors had other work. Believe the "
        "minimum, or\ntry --threads 1 or OMP_WAIT_POLICY=passive in the environment.\n");
  }
}

int run(const Options& o) {
  check_kernel(o.kernel);
  const Heads h = parse_heads(o.shape);
  const Threads threads = make_threads(o.threads);
  Context context;
  context.executor = threads.executor.get();
  context.kernel = o.kernel.empty() ? nullptr : o.kernel.c_str();
  const Processor machine = processor();
  const int workers = threads.executor->max_workers();
  const std::string shape =
      text("%lld q/k heads, %lld value heads, K %lld, V %lld", static_cast<long long>(h.H),
           static_cast<long long>(h.HV), static_cast<long long>(h.K), static_cast<long long>(h.V));
  if (!o.json) {
    std::printf("%s, %d threads (%s); %s, states %s [%s]\n\n", machine.model.c_str(), workers,
                threads.kind, shape.c_str(), o.state_dtype.c_str(), o.layout.c_str());
    std::fflush(stdout);
  }
  Progress progress;
  std::vector<Result> results;
  for (const Work& work : works_of(o)) {
    progress.show("gdn bench: " + work.name + " " + short_name(work.dtype));
    results.push_back(measure_work(o, h, context, work));
  }
  progress.clear();
  if (!o.json) {
    print(results);
    std::printf(
        "\nMedians over calls; the peak is measured between them, on the same threads. Rates "
        "count, "
        "of decode, the\nstates read and written; of the convolution and the norm their inputs and "
        "outputs, which are not in place\nas the peak's loop is: there every line written is "
        "fetched first, for nothing.\n");
    return kSuccess;
  }
  nlohmann::ordered_json out;
  out["version"] = GDN_VERSION;
  out["processor"] = {
      {"model", machine.model}, {"cores", machine.cores}, {"features", machine.features}};
  out["threads"] = workers;
  out["executor"] = threads.kind;
  out["shape"] = {{"H", h.H}, {"HV", h.HV}, {"K", h.K}, {"V", h.V}};
  out["state_dtype"] = o.state_dtype;
  out["state_layout"] = o.layout;
  out["results"] = nlohmann::ordered_json::array();
  for (const Result& result : results) out["results"].push_back(to_json(result));
  std::printf("%s\n", out.dump(2).c_str());
  return kSuccess;
}

}  // namespace

void add_bench(CLI::App& app, Action* action) {
  CLI::App* command =
      app.add_subcommand("bench",
                         "Time prefill and decode, and the convolution and the norm around them, "
                         "beside the peak of this machine in the same run");
  const auto o = std::make_shared<Options>();
  command->add_option("--ops", o->ops, "What to time")
      ->delimiter(',')
      ->check(CLI::IsMember({"prefill", "decode", "causal_conv1d", "rms_norm_gated"}))
      ->capture_default_str();
  command->add_option("--tokens", o->tokens, "All but decode: tokens of the one sequence")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 22))
      ->capture_default_str();
  command->add_option("--lengths", o->lengths, "Prefill: also these sequences, packed in one call")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 22));
  command->add_option("--sequences", o->sequences, "Decode: sequences of one token each")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->capture_default_str();
  command->add_option("--dtype", o->dtypes, "Of q, k, v and the output")
      ->delimiter(',')
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}))
      ->capture_default_str();
  add_dtype(command, "--state-dtype", &o->state_dtype, "Of the states");
  command->add_option("--layout", o->layout, "Last axes of a state")
      ->check(CLI::IsMember({"vk", "kv"}))
      ->capture_default_str();
  command->add_option("--shape", o->shape, "Heads and head dimensions")->capture_default_str();
  command->add_option("--min-time", o->min_time, "Seconds of timed calls for every line, at least")
      ->check(CLI::Range(1e-3, 3600.0))
      ->capture_default_str();
  add_threads(command, &o->threads);
  add_kernel(command, &o->kernel);
  add_json(command, &o->json);
  command->footer(
      "Example:\n  gdn bench --ops prefill --tokens 2048 --lengths 1,63,64,65,500,1355 --threads "
      "2");
  command->callback([=] { *action = [=] { return run(*o); }; });
}

}  // namespace gdn::tools
