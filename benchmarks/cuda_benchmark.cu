// How long the operators take on a GPU: replays of a graph of calls, whose inputs rotate past the
// second-level cache, medians; beside the fewest bytes that a call moves at the rate at which this
// GPU copies in the same run. Prints a table and writes JSON.
//
//   gdn_cuda_benchmark [--json FILE] [--ops decode,verify,elementwise,prefill] [--case TEXT]
//   [--rows]
//
// With --case only rows in whose name TEXT occurs. With --rows prefill has sequences of one length
// as rows of a batch, not in a pack with cu_seqlens.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/element.cuh"
#include "gdn/cuda.h"
#include "gdn/gdn.h"

namespace {

using namespace gdn;  // NOLINT: a program

void require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorName(error));
}
void require(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

constexpr int64_t kCacheBytes = 160 << 20;  // of inputs: three times the largest cache there is
constexpr int kReplays = 15;
constexpr int64_t kMostCalls = 64;

// mean + spread times a number of about normal distribution.
__global__ void fill_kernel(std::byte* p, DType dtype, int64_t n, float mean, float spread,
                            uint32_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t x = (static_cast<uint64_t>(seed) << 40) + static_cast<uint64_t>(i) + 1;
    float sum = 0;
    for (int round = 0; round < 4; ++round) {
      x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
      x ^= x >> 29;
      sum += static_cast<float>(x >> 40) * 0x1p-24f - 0.5f;
    }
    cuda::store_element(p, dtype, mean + spread * sum * 1.73f, i);
  }
}

// Several loads of 16 bytes in flight before the first store.
constexpr int kCopiesInFlight = 4;
__global__ void __launch_bounds__(256) copy_kernel(const uint4* from, uint4* to) {
  const int64_t first = int64_t{blockIdx.x} * 256 * kCopiesInFlight + threadIdx.x;
  uint4 x[kCopiesInFlight];
#pragma unroll
  for (int i = 0; i < kCopiesInFlight; ++i) x[i] = __ldcs(from + first + i * 256);
#pragma unroll
  for (int i = 0; i < kCopiesInFlight; ++i) __stcs(to + first + i * 256, x[i]);
}

// Device tensors of one benchmark.
class Tensors {
 public:
  ~Tensors() {
    for (void* p : memory_) cudaFree(p);
  }
  void* allocate(int64_t bytes) {
    void* p = nullptr;
    require(cudaMalloc(&p, static_cast<size_t>(std::max<int64_t>(bytes, 256))));
    memory_.push_back(p);
    return p;
  }
  TensorView make(DType dtype, std::initializer_list<int64_t> shape, float mean, float spread) {
    TensorView view(nullptr, dtype, shape);
    view.device = DeviceType::kCUDA;
    view.data = allocate(view.size() * size_of(dtype));
    fill_kernel<<<512, 256>>>(static_cast<std::byte*>(view.data), dtype, view.size(), mean, spread,
                              ++seed_);
    require(cudaGetLastError());
    return view;
  }
  TensorView make(const std::vector<int32_t>& values, std::initializer_list<int64_t> shape) {
    TensorView view(nullptr, DType::kI32, shape);
    view.device = DeviceType::kCUDA;
    view.data = allocate(view.size() * 4);
    require(cudaMemcpy(view.data, values.data(), values.size() * 4, cudaMemcpyHostToDevice));
    return view;
  }

 private:
  std::vector<void*> memory_;
  uint32_t seed_ = 0;
};

struct Row {
  std::string op, about;
  double microseconds = 0, bytes = 0, flops = 0;
};

class Bench {
 public:
  Bench() {
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    require(cudaEventCreate(&begin_));
    require(cudaEventCreate(&end_));
    context_.stream = stream_;
  }

  // The median of replays of a graph in which body(i) is called for i < calls, per call.
  double time(int64_t calls, const std::function<void(int64_t)>& body) {
    body(0);  // what loads lazily is loaded
    require(cudaStreamSynchronize(stream_));
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    require(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    for (int64_t i = 0; i < calls; ++i) body(i);
    require(cudaStreamEndCapture(stream_, &graph));
    require(cudaGraphInstantiate(&executable, graph, 0));
    std::vector<float> times;
    for (int replay = -2; replay < kReplays; ++replay) {
      require(cudaEventRecord(begin_, stream_));
      require(cudaGraphLaunch(executable, stream_));
      require(cudaEventRecord(end_, stream_));
      require(cudaEventSynchronize(end_));
      float milliseconds = 0;
      require(cudaEventElapsedTime(&milliseconds, begin_, end_));
      if (replay >= 0) times.push_back(milliseconds);
    }
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
    return 1e3 * times[kReplays / 2] / static_cast<double>(calls);
  }

  // Work until the clocks have risen.
  void warm_up() {
    void* p = nullptr;
    require(cudaMalloc(&p, size_t{1} << 28));
    cudaEvent_t now;
    require(cudaEventCreate(&now));
    require(cudaEventRecord(begin_, stream_));
    for (float milliseconds = 0; milliseconds < 1000;) {
      for (int i = 0; i < 20; ++i) {
        fill_kernel<<<1024, 256, 0, stream_>>>(static_cast<std::byte*>(p), DType::kF32, 1 << 26, 0,
                                               1, 1);
      }
      require(cudaEventRecord(now, stream_));
      require(cudaEventSynchronize(now));
      require(cudaEventElapsedTime(&milliseconds, begin_, now));
    }
    cudaEventDestroy(now);
    cudaFree(p);
  }

  // Bytes read and written in a second by a large copy: the driver's or a plain kernel's, whichever
  // is faster.
  double copy_rate() {
    constexpr size_t kBytes = size_t{1} << 30;
    void *from = nullptr, *to = nullptr;
    require(cudaMalloc(&from, kBytes));
    require(cudaMalloc(&to, kBytes));
    require(cudaMemset(from, 1, kBytes));
    const double driver = time(1, [&](int64_t) {
      require(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, stream_));
    });
    const double kernel = time(1, [&](int64_t) {
      copy_kernel<<<kBytes / (256 * 16 * kCopiesInFlight), 256, 0, stream_>>>(
          static_cast<const uint4*>(from), static_cast<uint4*>(to));
      require(cudaGetLastError());
    });
    const double us = std::min(driver, kernel);
    cudaFree(from);
    cudaFree(to);
    return 2.0 * kBytes / us * 1e6;
  }

  void add(const Row& row) {
    rows.push_back(row);
    std::fprintf(stderr, "%s %s: %.2f us\n", row.op.c_str(), row.about.c_str(), row.microseconds);
  }

  bool wanted(const std::string& op, const std::string& about) const {
    return (op + " " + about).find(only) != std::string::npos;
  }

  Context& context() { return context_; }
  std::vector<Row> rows;
  std::string only;
  bool rows_of_a_batch = false;

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  Context context_;
};

int64_t sets_for(int64_t bytes) {
  return std::clamp<int64_t>((kCacheBytes + bytes - 1) / bytes, 1, kMostCalls);
}

const char* short_name(DType dtype) {
  return dtype == DType::kF32 ? "fp32" : dtype == DType::kBF16 ? "bf16" : "fp16";
}

struct Heads {
  int64_t H = 16, HV = 32, K = 128, V = 128;
};

template <class Args>
void set_tokens(Tensors* tensors, const Heads& h, int64_t B, int64_t T, Args* args) {
  const DType io = DType::kBF16;
  args->q = tensors->make(io, {B, T, h.H, h.K}, 0, 1);
  args->k = tensors->make(io, {B, T, h.H, h.K}, 0, 1);
  args->v = tensors->make(io, {B, T, h.HV, h.V}, 0, 1);
  args->out = tensors->make(io, {B, T, h.HV, h.V}, 0, 0);
  args->g = tensors->make(DType::kF32, {B, T, h.HV}, -0.1f, 0.02f);
  args->beta = tensors->make(DType::kF32, {B, T, h.HV}, 0.5f, 0.1f);
  args->use_qk_l2norm = true;
}

double token_bytes(const Heads& h, int64_t tokens) {
  return static_cast<double>(tokens) *
         static_cast<double>(2 * h.H * h.K * 2 + 2 * h.HV * h.V * 2 + h.HV * 8);
}

void bench_decode(Bench* bench, int64_t N, DType state, StateLayout layout) {
  const Heads h;
  const std::string about =
      std::to_string(N) + " " + short_name(state) + (layout == StateLayout::kVK ? " vk" : " kv");
  if (!bench->wanted("decode", about)) return;
  const int64_t state_bytes = N * h.HV * h.K * h.V * size_of(state);
  const int64_t sets = sets_for(state_bytes);
  Tensors tensors;
  std::vector<RecurrentArgs> args;
  std::vector<int32_t> slots(static_cast<size_t>(N));
  for (int64_t n = 0; n < N; ++n)
    slots[static_cast<size_t>(n)] = static_cast<int32_t>((n * 7 + 3) % (N + 5));
  if ((N + 5) % 7 == 0)
    for (int64_t n = 0; n < N; ++n) slots[static_cast<size_t>(n)] = static_cast<int32_t>(n);
  for (int64_t i = 0; i < sets; ++i) {
    RecurrentArgs a(layout);
    set_tokens(&tensors, h, N, 1, &a);
    a.initial_state = a.final_state = tensors.make(state, {N + 5, h.HV, h.K, h.V}, 0, 0.1f);
    a.initial_state_indices = a.final_state_indices = tensors.make(slots, {N});
    args.push_back(a);
  }
  const double us = bench->time(std::max<int64_t>(sets, 8), [&](int64_t i) {
    require(recurrent(bench->context(), args[static_cast<size_t>(i % sets)]));
  });
  bench->add({"decode", about, us, 2.0 * static_cast<double>(state_bytes) + token_bytes(h, N)});
}

void bench_verify(Bench* bench, int64_t N, int64_t T, DType state) {
  const Heads h;
  const std::string about = std::to_string(N) + " x " + std::to_string(T) + " " + short_name(state);
  if (!bench->wanted("verify", about)) return;
  const int64_t state_bytes = N * h.HV * h.K * h.V * size_of(state);
  const int64_t sets = sets_for(state_bytes);
  Tensors tensors;
  std::vector<ReplayVerifyArgs> args;
  for (int64_t i = 0; i < sets; ++i) {
    ReplayVerifyArgs a(StateLayout::kVK);
    set_tokens(&tensors, h, N, T, &a);
    a.state = tensors.make(state, {N, h.HV, h.V, h.K}, 0, 0.1f);
    a.num_accepted =
        tensors.make(std::vector<int32_t>(static_cast<size_t>(N), static_cast<int32_t>(T)), {N});
    a.record_k = tensors.make(DType::kBF16, {N, T, h.H, h.K}, 0, 0.09f);
    a.record_v = tensors.make(DType::kF32, {N, T, h.HV, h.V}, 0, 0.5f);
    a.record_g = tensors.make(DType::kF32, {N, T, h.HV}, -0.1f, 0.02f);
    args.push_back(a);
  }
  const double us = bench->time(std::max<int64_t>(sets, 8), [&](int64_t i) {
    require(replay_verify(bench->context(), args[static_cast<size_t>(i % sets)]));
  });
  const double records = static_cast<double>(N * T) *
                         static_cast<double>(h.H * h.K * 2 + h.HV * h.V * 4 + h.HV * 4) * 2;
  bench->add({"verify", about, us,
              2.0 * static_cast<double>(state_bytes) + token_bytes(h, N * T) + records});
}

void bench_prefill(Bench* bench, const std::vector<int64_t>& lengths, int64_t H, int64_t HV,
                   DType io = DType::kBF16) {
  const Heads h{H, HV};
  int64_t tokens = 0;
  std::vector<int32_t> cu = {0};
  for (int64_t length : lengths) cu.push_back(static_cast<int32_t>(tokens += length));
  const auto N = static_cast<int64_t>(lengths.size());
  std::string about = std::to_string(N) + "x" + std::to_string(lengths[0]);
  if (N == 2 && lengths[0] != lengths[1])
    about = std::to_string(lengths[0]) + "+" + std::to_string(lengths[1]);
  about += " " + std::to_string(H) + "/" + std::to_string(HV) + " " + short_name(io);
  if (!bench->wanted("prefill", about)) return;
  const int64_t sets = std::min<int64_t>(4, sets_for(static_cast<int64_t>(token_bytes(h, tokens))));
  Tensors tensors;
  std::vector<ChunkArgs> args;
  for (int64_t i = 0; i < sets; ++i) {
    ChunkArgs a(StateLayout::kVK);
    const bool rows = bench->rows_of_a_batch && tokens == N * lengths[0];
    const int64_t B = rows ? N : 1, T = tokens / B;
    set_tokens(&tensors, h, B, T, &a);
    if (io != DType::kBF16) {
      a.q = tensors.make(io, {B, T, h.H, h.K}, 0, 1);
      a.k = tensors.make(io, {B, T, h.H, h.K}, 0, 1);
      a.v = tensors.make(io, {B, T, h.HV, h.V}, 0, 1);
      a.out = tensors.make(io, {B, T, h.HV, h.V}, 0, 0);
    }
    if (!rows) a.cu_seqlens = tensors.make(cu, {N + 1});
    a.initial_state = tensors.make(DType::kF32, {N, h.HV, h.V, h.K}, 0, 0.1f);
    a.final_state = tensors.make(DType::kF32, {N, h.HV, h.V, h.K}, 0, 0);
    args.push_back(a);
  }
  Plan plan_;
  require(plan(bench->context(), args[0], &plan_));
  bench->context().workspace_bytes = plan_.workspace_bytes;
  bench->context().workspace = plan_.workspace_bytes > 0
                                   ? tensors.allocate(static_cast<int64_t>(plan_.workspace_bytes))
                                   : nullptr;
  const double us = bench->time(
      sets, [&](int64_t i) { require(chunk(bench->context(), args[static_cast<size_t>(i)])); });
  bench->context().workspace = nullptr;
  const double d = 128;
  const double flops =
      static_cast<double>(tokens * HV) *
      (6 * d * d + 64 * (2 * d * static_cast<double>(H) / static_cast<double>(HV) + 2 * d));
  bench->add({"prefill", about, us,
              token_bytes(h, tokens) + 8.0 * static_cast<double>(N * HV) * d * d, flops});
}

void bench_elementwise(Bench* bench) {
  const DType io = DType::kBF16;
  constexpr int64_t T = 8192, H = 16, HV = 32, D = 128, kWidth = 2 * H * D + HV * D;
  const auto run = [&](const char* op, const std::string& about, double bytes, auto make,
                       auto call) {
    if (!bench->wanted(op, about)) return;
    Tensors tensors;
    const int64_t sets = sets_for(static_cast<int64_t>(bytes));
    std::vector<decltype(make(tensors))> args;
    for (int64_t i = 0; i < sets; ++i) args.push_back(make(tensors));
    const double us = bench->time(std::max<int64_t>(sets, 4), [&](int64_t i) {
      require(call(bench->context(), args[static_cast<size_t>(i % sets)]));
    });
    bench->add({op, about, us, bytes});
  };
  run(
      "l2norm", "8192 x 16 x 128 bf16", 2.0 * T * H * D * 2,
      [&](Tensors& t) {
        L2normArgs a;
        a.x = t.make(io, {T, H, D}, 0, 1);
        a.y = t.make(io, {T, H, D}, 0, 0);
        return a;
      },
      &l2norm);
  run(
      "rms_norm_gated", "8192 x 32 x 128 bf16", 3.0 * T * HV * D * 2,
      [&](Tensors& t) {
        RmsNormGatedArgs a;
        a.x = t.make(io, {T, HV, D}, 0, 1);
        a.z = t.make(io, {T, HV, D}, 0, 1);
        a.weight = t.make(DType::kF32, {D}, 1, 0.1f);
        a.y = t.make(io, {T, HV, D}, 0, 0);
        return a;
      },
      &rms_norm_gated);
  run(
      "gating", "8192 x 32 bf16", T * HV * (2.0 + 2 + 4 + 4),
      [&](Tensors& t) {
        GatingArgs a;
        a.a = t.make(io, {1, T, HV}, 0, 1);
        a.b = t.make(io, {1, T, HV}, 0, 1);
        a.A_log = t.make(DType::kF32, {HV}, 0, 1);
        a.dt_bias = t.make(DType::kF32, {HV}, 0, 1);
        a.g = t.make(DType::kF32, {1, T, HV}, 0, 0);
        a.beta = t.make(DType::kF32, {1, T, HV}, 0, 0);
        return a;
      },
      &gating);
  const auto conv = [&](int64_t N, int64_t length) {
    run(
        "causal_conv1d", std::to_string(N) + "x" + std::to_string(length) + " x 8192 bf16",
        2.0 * static_cast<double>(N * length * kWidth * 2) +
            2.0 * static_cast<double>(N * kWidth * 3 * 2),
        [&](Tensors& t) {
          CausalConv1dArgs a;
          a.x = t.make(io, {N, length, kWidth}, 0, 1);
          a.y = t.make(io, {N, length, kWidth}, 0, 0);
          a.weight = t.make(io, {kWidth, 4}, 0, 1);
          a.silu = true;
          a.initial_state = a.final_state = t.make(io, {N, kWidth, 3}, 0, 1);
          return a;
        },
        &causal_conv1d);
  };
  conv(1, 8192);
  conv(64, 1);
  run(
      "solve_tril", "4096 x 64 x 64 fp32", 2.0 * 4096 * 64 * 64 * 4,
      [&](Tensors& t) {
        SolveTrilArgs a;
        a.lower = t.make(DType::kF32, {4096, 64, 64}, 0, 0.09f);
        a.inverse = t.make(DType::kF32, {4096, 64, 64}, 0, 0);
        return a;
      },
      &solve_tril);
}

std::vector<int64_t> times(int64_t n, int64_t length) {
  return std::vector<int64_t>(static_cast<size_t>(n), length);
}

void bench_prefills(Bench* bench) {
  bench_prefill(bench, {2048}, 2, 8);
  bench_prefill(bench, {8192}, 2, 8);
  bench_prefill(bench, {32768}, 2, 8);
  bench_prefill(bench, {8192}, 4, 16);
  bench_prefill(bench, {2048}, 16, 32);
  bench_prefill(bench, {8192}, 16, 32);
  bench_prefill(bench, {32768}, 16, 32);
  bench_prefill(bench, {131072}, 16, 32);
  bench_prefill(bench, times(8, 1024), 16, 32);
  bench_prefill(bench, times(8, 4096), 16, 32);
  bench_prefill(bench, {1024, 7168}, 16, 32);
  bench_prefill(bench, times(4, 2048), 16, 48);
  bench_prefill(bench, times(8, 4096), 16, 64);
  bench_prefill(bench, {8192}, 16, 64);
  bench_prefill(bench, {8192}, 16, 32, DType::kF32);
}

void run(const std::string& ops, const std::string& only, bool rows, const std::string& json) {
  Bench bench;
  bench.only = only;
  bench.rows_of_a_batch = rows;
  bench.warm_up();
  cudaDeviceProp properties;
  require(cudaGetDeviceProperties(&properties, 0));
  const double rate = bench.copy_rate();
  const auto asked = [&](const char* op) { return ops.find(op) != std::string::npos; };
  if (asked("decode")) {
    for (DType state : {DType::kF32, DType::kBF16}) {
      for (int64_t N : {1, 16, 64, 256, 512}) bench_decode(&bench, N, state, StateLayout::kVK);
      bench_decode(&bench, 64, state, StateLayout::kKV);
    }
  }
  if (asked("verify")) {
    bench_verify(&bench, 64, 4, DType::kF32);
    bench_verify(&bench, 64, 4, DType::kBF16);
  }
  if (asked("elementwise")) bench_elementwise(&bench);
  if (asked("prefill")) bench_prefills(&bench);

  nlohmann::json out;
  out["device"] = properties.name;
  out["copy_bytes_per_second"] = rate;
  std::printf("%s, %d multiprocessors, copies %.0f GB/s\n", properties.name,
              properties.multiProcessorCount, rate / 1e9);
  std::printf("%-15s %-24s %10s %10s %7s %9s\n", "operator", "case", "us", "floor us", "share",
              "TFLOP/s");
  for (const Row& row : bench.rows) {
    const double floor = row.bytes / rate * 1e6;
    std::printf("%-15s %-24s %10.2f %10.2f %6.0f%% ", row.op.c_str(), row.about.c_str(),
                row.microseconds, floor, 100 * floor / row.microseconds);
    if (row.flops > 0) std::printf("%9.1f", row.flops / row.microseconds * 1e-6);
    std::printf("\n");
    out["rows"].push_back({{"operator", row.op},
                           {"case", row.about},
                           {"microseconds", row.microseconds},
                           {"bytes", row.bytes},
                           {"flops", row.flops},
                           {"share_of_copy_rate", floor / row.microseconds}});
  }
  if (!json.empty()) std::ofstream(json) << out.dump(1) << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::string ops = "decode,verify,elementwise,prefill", only, json;
  bool rows = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      json = argv[++i];
    } else if (std::strcmp(argv[i], "--case") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else if (std::strcmp(argv[i], "--ops") == 0 && i + 1 < argc) {
      ops = argv[++i];
    } else if (std::strcmp(argv[i], "--rows") == 0) {
      rows = true;
    } else {
      std::fprintf(stderr,
                   "gdn_cuda_benchmark [--json FILE] [--ops decode,verify,elementwise,prefill] "
                   "[--case TEXT] [--rows]\n");
      return 2;
    }
  }
  try {
    if (!install_cuda().ok()) return 1;
    run(ops, only, rows, json);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gdn_cuda_benchmark: %s\n", error.what());
    return 1;
  }
}
