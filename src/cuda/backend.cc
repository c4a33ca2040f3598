// The CUDA backend: plans, and from a planned call to the launchers.
#include "cuda/table.h"

#include <algorithm>
#include <string>

#include "cuda/kernels.h"
#include "gdn/cuda.h"

namespace gdn::cuda {
namespace {

constexpr const char* kName = "cuda";
constexpr std::string_view kSm90 = "sm90";
constexpr std::string_view kSm80 = "sm80";

bool runs_on(std::string_view kernel, const Device& device) {
  return kernel == kSm90 ? device.major == 9 : device.supported();
}

std::span<const KernelInfo> list_kernels() {
  const auto supported = [](std::string_view kernel) {
    Device device;
    return current_device(&device).ok() && runs_on(kernel, device);
  };
  static const KernelInfo list[] = {
      {kName, kSm90, "NVIDIA Hopper: wgmma in chunk, the rest as sm80", supported(kSm90)},
      {kName, kSm80, "NVIDIA GPUs of compute capability 8.0 and later: mma.sync",
       supported(kSm80)}};
  return list;
}

bool takes_16_bits(const Shape& shape) {
  const bool permitted = shape.compute == Compute::kBF16 || (shape.compute == Compute::kAuto);
  return permitted && shape.dtype != DType::kF32 && chunk_fits_tensor_cores(shape);
}

std::string not_supported(std::string_view kernel) {
  return "kernel \"" + std::string(kernel) + "\" is not supported";
}

Status plan_cuda(const Shape& shape, const PlanRequest& request, Plan* plan) {
  Device device;
  if (Status status = current_device(&device); !status.ok()) {
    const std::string_view kernel = request.kernel.empty() ? kSm80 : request.kernel;
    return {status.code(), not_supported(kernel) + ": " + status.message()};
  }
  return plan_for(shape, device, request.kernel, plan);
}

Stream stream_of(const Call& call) {
  return {static_cast<cudaStream_t>(call.context.stream), call.context.out_of_range};
}

// Puts the operator's name before a launcher's message.
Status named(const Call& call, const Status& status) {
  if (status.ok()) return status;
  return {status.code(), std::string(name_of(call.plan.op)) + ": " + status.message()};
}

// Runs body(device) on the current device.
template <class Body>
Status on_device(const Call& call, const Body& body) {
  Device device;
  Status status = current_device(&device);
  return named(call, status.ok() ? body(device) : status);
}

Status run_chunk(const Call& call, const DeltaRuleProblem& problem) {
  return on_device(call, [&](const Device& device) {
    // Tensor cores have no state between two tokens of a chunk.
    const bool tensor_cores = call.plan.compute == Compute::kBF16 && !problem.stores_every_state();
    if (!tensor_cores) return chunk_f32(problem, device, stream_of(call));
    return call.plan.kernel == kSm90
               ? chunk_sm90(problem, device, call.workspace, stream_of(call))
               : chunk_tensor_cores(problem, device, call.workspace, stream_of(call));
  });
}

Status run_recurrent(const Call& call, const DeltaRuleProblem& problem) {
  return on_device(
      call, [&](const Device& device) { return recurrent(problem, device, stream_of(call)); });
}

Status run_replay(const Call& call, const ReplayProblem& problem) {
  return on_device(call,
                   [&](const Device& device) { return replay(problem, device, stream_of(call)); });
}

Status run_gating(const Call& call, const GatingProblem& problem) {
  return on_device(call,
                   [&](const Device& device) { return gating(problem, device, stream_of(call)); });
}
Status run_l2norm(const Call& call, const L2normProblem& problem) {
  return on_device(call,
                   [&](const Device& device) { return l2norm(problem, device, stream_of(call)); });
}
Status run_solve_tril(const Call& call, const SolveTrilProblem& problem) {
  return on_device(
      call, [&](const Device& device) { return solve_tril(problem, device, stream_of(call)); });
}
Status run_rms_norm_gated(const Call& call, const RmsNormGatedProblem& problem) {
  return on_device(
      call, [&](const Device& device) { return rms_norm_gated(problem, device, stream_of(call)); });
}
Status run_causal_conv1d(const Call& call, const CausalConv1dProblem& problem) {
  return on_device(
      call, [&](const Device& device) { return causal_conv1d(problem, device, stream_of(call)); });
}

}  // namespace

Status plan_for(const Shape& shape, const Device& device, std::string_view kernel, Plan* plan) {
  plan->kernel = !kernel.empty() ? kernel : runs_on(kSm90, device) ? kSm90 : kSm80;
  plan->reason = !kernel.empty() ? "forced" : "the first for this GPU";
  if (!runs_on(plan->kernel, device)) {
    return {StatusCode::kUnsupported,
            not_supported(plan->kernel) + " by a GPU of compute capability " +
                std::to_string(device.major) + "." + std::to_string(device.minor) + ", expected " +
                (plan->kernel == kSm90 ? "9.0" : "8.0 or later")};
  }
  plan->workers = 1;
  const int64_t sequences = std::max<int64_t>(1, shape.sequences);
  switch (shape.op) {
    case Op::kChunk: {
      const bool tensor_cores = takes_16_bits(shape);
      const int64_t columns = chunk_columns(shape, tensor_cores);
      plan->compute = tensor_cores ? Compute::kBF16 : Compute::kF32;
      plan->chunk = tensor_cores ? 64 : 16;
      plan->parts = (shape.V + columns - 1) / columns;
      plan->tasks = shape.sequences * shape.value_heads * plan->parts;
      if (tensor_cores && plan->kernel == kSm90) {
        const sm90::Layout layout = chunk_sm90_layout(shape, device, false);
        int64_t bytes = layout.bytes();
        // A Shape does not tell of checkpoints, with which these segments would be others.
        if (layout.segments.once) {
          bytes = std::max(bytes, chunk_sm90_layout(shape, device, true).bytes());
        }
        plan->first_segment_tokens = layout.segments.first * plan->chunk;
        plan->segment_tokens = layout.segments.length * plan->chunk;
        plan->segments_walked_once = layout.segments.once;
        plan->workspace_bytes_per_worker = static_cast<size_t>(bytes);
        if (layout.wide) {
          plan->parts = 1;
          plan->tasks = shape.sequences * shape.value_heads;
        }
      } else if (tensor_cores) {
        plan->workspace_bytes_per_worker = chunk_workspace(shape);
      }
      break;
    }
    case Op::kRecurrent:
    case Op::kReplayVerify:
    case Op::kReplayCommit:
      plan->tasks = shape.sequences * shape.value_heads;
      break;
    case Op::kGating:
      plan->tasks = shape.tokens * shape.value_heads;
      break;
    case Op::kL2norm:
    case Op::kRmsNormGated:
    case Op::kSolveTril:
      plan->tasks = shape.sequences;
      break;
    case Op::kCausalConv1d:
      plan->tasks = sequences * shape.V;
      break;
  }
  return {};
}

const Backend kBackend = {
    .name = kName,
    .device = DeviceType::kCUDA,
    .kernels = &list_kernels,
    .plan = &plan_cuda,
    .chunk = &run_chunk,
    .recurrent = &run_recurrent,
    .replay = &run_replay,
    .gating = &run_gating,
    .l2norm = &run_l2norm,
    .solve_tril = &run_solve_tril,
    .rms_norm_gated = &run_rms_norm_gated,
    .causal_conv1d = &run_causal_conv1d,
};

}  // namespace gdn::cuda

namespace gdn {

Status install_cuda() {
  if (install(&cuda::kBackend)) return {};
  return {StatusCode::kUnsupported, "gdn.install_cuda: the table of backends is full"};
}

}  // namespace gdn
