#include "plan.h"

#include <algorithm>
#include <string>

namespace gdn {
namespace {

bool has_kernel(const Backend& backend, std::string_view name) {
  for (const KernelInfo& kernel : backend.kernels()) {
    if (kernel.name == name) return true;
  }
  return false;
}

const char* name_of(DeviceType device) { return device == DeviceType::kCUDA ? "CUDA" : "CPU"; }

// Of the kernels for that device that the machine supports.
std::string kernel_names(DeviceType device) {
  std::string names;
  for (const Backend* backend : backends()) {
    if (backend->device != device) continue;
    for (const KernelInfo& kernel : backend->kernels()) {
      if (!kernel.supported) continue;
      if (!names.empty()) names += ", ";
      names += kernel.name;
    }
  }
  return names.empty() ? "none" : names;
}

Status unsupported(const Shape& shape, const std::string& message) {
  return {StatusCode::kUnsupported, std::string(name_of(shape.op)) + ": " + message};
}

}  // namespace

const char* name_of(Op op) {
  switch (op) {
    case Op::kChunk:
      return "gdn.chunk";
    case Op::kRecurrent:
      return "gdn.recurrent";
    case Op::kReplayVerify:
      return "gdn.replay_verify";
    case Op::kReplayCommit:
      return "gdn.replay_commit";
    case Op::kGating:
      return "gdn.gating";
    case Op::kL2norm:
      return "gdn.l2norm";
    case Op::kSolveTril:
      return "gdn.solve_tril";
    case Op::kRmsNormGated:
      return "gdn.rms_norm_gated";
    case Op::kCausalConv1d:
      return "gdn.causal_conv1d";
  }
  return "gdn";
}

std::vector<KernelInfo> kernels() {
  std::vector<KernelInfo> all;
  for (const Backend* backend : backends()) {
    const auto list = backend->kernels();
    all.insert(all.end(), list.begin(), list.end());
  }
  return all;
}

Status make_plan(const Context& context, const Shape& shape, Plan* plan, const Backend** backend) {
  const PlanRequest request{context.kernel ? context.kernel : std::string_view(),
                            context.executor ? context.executor->max_workers() : 1};
  if (request.workers < 1) {
    return {StatusCode::kInvalidArgument, std::string(name_of(shape.op)) + ": executor has " +
                                              std::to_string(request.workers) +
                                              " workers, expected at least 1"};
  }
  for (const Backend* candidate : backends()) {
    if (candidate->device != shape.device) continue;
    const bool forced = !request.kernel.empty();
    if (forced ? !has_kernel(*candidate, request.kernel) : candidate == &reference_backend())
      continue;
    *plan = Plan{};
    plan->op = shape.op;
    plan->backend = candidate->name;
    plan->workers = request.workers;
    Status status = candidate->plan(shape, request, plan);
    if (!status.ok()) return unsupported(shape, status.message());
    plan->workspace_bytes = plan->workspace_bytes_per_worker * static_cast<size_t>(plan->workers);
    *backend = candidate;
    return {};
  }
  if (!request.kernel.empty()) {
    const bool elsewhere =
        std::any_of(backends().begin(), backends().end(),
                    [&](const Backend* other) { return has_kernel(*other, request.kernel); });
    return unsupported(shape,
                       "kernel \"" + std::string(request.kernel) + "\" " +
                           (elsewhere ? std::string("takes no tensors on ") + name_of(shape.device)
                                      : "is not in this build") +
                           ", expected one of " + kernel_names(shape.device));
  }
  return unsupported(shape, std::string("no backend for tensors on ") + name_of(shape.device) +
                                ", expected one that is installed");
}

std::string to_string(const Plan& plan) {
  std::string text = std::string(name_of(plan.op)) + " on " + std::string(plan.backend) +
                     ": kernel " + std::string(plan.kernel) + " (" + std::string(plan.reason) +
                     "), " + (plan.compute == Compute::kBF16 ? "bfloat16" : "float32") +
                     " products";
  if (plan.chunk > 0) text += ", chunks of " + std::to_string(plan.chunk);
  text += ", " + std::to_string(plan.tasks) + " tasks";
  if (plan.parts > 1) {
    text += plan.op == Op::kCausalConv1d ? " (channels in " : " (V in ";
    text += std::to_string(plan.parts) + " parts)";
  }
  if (plan.segment_tokens > 0) {
    text += ", segments of " + std::to_string(plan.first_segment_tokens) + " and then " +
            std::to_string(plan.segment_tokens) + " tokens";
    if (plan.segments_walked_once) text += " walked once";
  }
  text += " on " + std::to_string(plan.workers) + (plan.workers == 1 ? " worker" : " workers") +
          ", " + std::to_string(plan.workspace_bytes) + " bytes of workspace";
  return text;
}

}  // namespace gdn
