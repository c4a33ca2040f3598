// The one way through the library: check -> plan -> run. An argument struct belongs to one problem
// type and one member of a backend, which the public functions name; the rest is the same for all.
#include "gdn/ops.h"

#include <cstdint>
#include <new>
#include <string>

#include "backend.h"
#include "check/check.h"
#include "guarded.h"
#include "plan.h"

namespace gdn {
namespace {

constexpr size_t kWorkspaceAlignment = 64;

// The caller's workspace, or memory of the call's own. A device's has to be the caller's: to
// allocate there takes long, and is impossible while a graph is captured.
class Workspace {
 public:
  ~Workspace() { ::operator delete(owned_, std::align_val_t(kWorkspaceAlignment)); }

  Status acquire(const Context& context, const Plan& plan, DeviceType device) {
    const auto op = [&] { return std::string(name_of(plan.op)); };
    if (context.workspace != nullptr) {
      if (reinterpret_cast<uintptr_t>(context.workspace) % kWorkspaceAlignment != 0) {
        return {StatusCode::kInvalidArgument,
                op() + ": workspace is not aligned, expected a multiple of 64 bytes"};
      }
      if (context.workspace_bytes < plan.workspace_bytes) {
        return {StatusCode::kInvalidArgument,
                op() + ": workspace has " + std::to_string(context.workspace_bytes) +
                    " bytes, expected at least " + std::to_string(plan.workspace_bytes)};
      }
      data = static_cast<std::byte*>(context.workspace);
    } else if (plan.workspace_bytes > 0 && device != DeviceType::kCPU) {
      return {StatusCode::kInvalidArgument, op() + ": workspace is absent, expected " +
                                                std::to_string(plan.workspace_bytes) +
                                                " bytes of device memory"};
    } else if (plan.workspace_bytes > 0) {
      owned_ =
          ::operator new(plan.workspace_bytes, std::align_val_t(kWorkspaceAlignment), std::nothrow);
      if (owned_ == nullptr) {
        return {StatusCode::kOutOfMemory, op() + ": could not allocate a workspace of " +
                                              std::to_string(plan.workspace_bytes) + " bytes"};
      }
      data = static_cast<std::byte*>(owned_);
    }
    return {};
  }

  std::byte* data = nullptr;

 private:
  void* owned_ = nullptr;
};

// `run_problem` is the member of a backend that runs what check() makes of the arguments.
template <class Args, class Problem>
Status run(Context& context, Op op, const Args& args,
           Status (*Backend::*run_problem)(const Call&, const Problem&)) {
  return guarded(name_of(op), [&]() -> Status {
    Problem problem;
    if (Status status = check(args, &problem); !status.ok()) return status;
    Plan plan;
    const Backend* backend = nullptr;
    if (Status status = make_plan(context, problem.shape, &plan, &backend); !status.ok())
      return status;
    Workspace workspace;
    if (Status status = workspace.acquire(context, plan, problem.shape.device); !status.ok())
      return status;
    return (backend->*run_problem)(Call{context, plan, workspace.data}, problem);
  });
}

// Plans the shape that shape_of(&shape) checks and tells.
template <class ShapeOf>
Status plan_shape(const Context& context, Op op, Plan* plan, const ShapeOf& shape_of) {
  return guarded(name_of(op), [&]() -> Status {
    if (plan == nullptr) {
      return {
          StatusCode::kInvalidArgument,
          std::string(name_of(op)) + ": plan is a null pointer, expected where to put the plan"};
    }
    Shape shape;
    if (Status status = shape_of(&shape); !status.ok()) return status;
    const Backend* backend = nullptr;
    return make_plan(context, shape, plan, &backend);
  });
}

template <class Problem, class Args>
Status plan_args(const Context& context, Op op, const Args& args, Plan* plan) {
  return plan_shape(context, op, plan, [&](Shape* shape) {
    Problem problem;
    Status status = check(args, &problem);
    *shape = problem.shape;
    return status;
  });
}

}  // namespace

Status chunk(Context& context, const ChunkArgs& args) {
  return run(context, Op::kChunk, args, &Backend::chunk);
}
Status recurrent(Context& context, const RecurrentArgs& args) {
  return run(context, Op::kRecurrent, args, &Backend::recurrent);
}
Status replay_verify(Context& context, const ReplayVerifyArgs& args) {
  return run(context, Op::kReplayVerify, args, &Backend::replay);
}
Status replay_commit(Context& context, const ReplayCommitArgs& args) {
  return run(context, Op::kReplayCommit, args, &Backend::replay);
}
Status gating(Context& context, const GatingArgs& args) {
  return run(context, Op::kGating, args, &Backend::gating);
}
Status l2norm(Context& context, const L2normArgs& args) {
  return run(context, Op::kL2norm, args, &Backend::l2norm);
}
Status solve_tril(Context& context, const SolveTrilArgs& args) {
  return run(context, Op::kSolveTril, args, &Backend::solve_tril);
}
Status rms_norm_gated(Context& context, const RmsNormGatedArgs& args) {
  return run(context, Op::kRmsNormGated, args, &Backend::rms_norm_gated);
}
Status causal_conv1d(Context& context, const CausalConv1dArgs& args) {
  return run(context, Op::kCausalConv1d, args, &Backend::causal_conv1d);
}

Status plan(const Context& context, const Shape& shape, Plan* plan) {
  return plan_shape(context, shape.op, plan, [&](Shape* checked) {
    *checked = shape;
    return check(shape);
  });
}
Status plan(const Context& context, const ChunkArgs& args, Plan* plan) {
  return plan_args<DeltaRuleProblem>(context, Op::kChunk, args, plan);
}
Status plan(const Context& context, const RecurrentArgs& args, Plan* plan) {
  return plan_args<DeltaRuleProblem>(context, Op::kRecurrent, args, plan);
}
Status plan(const Context& context, const ReplayVerifyArgs& args, Plan* plan) {
  return plan_args<ReplayProblem>(context, Op::kReplayVerify, args, plan);
}
Status plan(const Context& context, const ReplayCommitArgs& args, Plan* plan) {
  return plan_args<ReplayProblem>(context, Op::kReplayCommit, args, plan);
}
Status plan(const Context& context, const GatingArgs& args, Plan* plan) {
  return plan_args<GatingProblem>(context, Op::kGating, args, plan);
}
Status plan(const Context& context, const L2normArgs& args, Plan* plan) {
  return plan_args<L2normProblem>(context, Op::kL2norm, args, plan);
}
Status plan(const Context& context, const SolveTrilArgs& args, Plan* plan) {
  return plan_args<SolveTrilProblem>(context, Op::kSolveTril, args, plan);
}
Status plan(const Context& context, const RmsNormGatedArgs& args, Plan* plan) {
  return plan_args<RmsNormGatedProblem>(context, Op::kRmsNormGated, args, plan);
}
Status plan(const Context& context, const CausalConv1dArgs& args, Plan* plan) {
  return plan_args<CausalConv1dProblem>(context, Op::kCausalConv1d, args, plan);
}

}  // namespace gdn
