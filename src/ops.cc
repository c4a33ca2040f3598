// The one way through the library: check -> plan -> run. An argument struct belongs to one problem
// type and one member of a backend; the rest is the same for every operator.
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

template <class Args>
struct Route;
template <>
struct Route<ChunkArgs> {
  using Problem = DeltaRuleProblem;
  static constexpr Op op = Op::kChunk;
  static constexpr auto run = &Backend::chunk;
};
template <>
struct Route<RecurrentArgs> {
  using Problem = DeltaRuleProblem;
  static constexpr Op op = Op::kRecurrent;
  static constexpr auto run = &Backend::recurrent;
};
template <>
struct Route<ReplayVerifyArgs> {
  using Problem = ReplayProblem;
  static constexpr Op op = Op::kReplayVerify;
  static constexpr auto run = &Backend::replay;
};
template <>
struct Route<ReplayCommitArgs> {
  using Problem = ReplayProblem;
  static constexpr Op op = Op::kReplayCommit;
  static constexpr auto run = &Backend::replay;
};
template <>
struct Route<GatingArgs> {
  using Problem = GatingProblem;
  static constexpr Op op = Op::kGating;
  static constexpr auto run = &Backend::gating;
};
template <>
struct Route<L2normArgs> {
  using Problem = L2normProblem;
  static constexpr Op op = Op::kL2norm;
  static constexpr auto run = &Backend::l2norm;
};
template <>
struct Route<SolveTrilArgs> {
  using Problem = SolveTrilProblem;
  static constexpr Op op = Op::kSolveTril;
  static constexpr auto run = &Backend::solve_tril;
};
template <>
struct Route<RmsNormGatedArgs> {
  using Problem = RmsNormGatedProblem;
  static constexpr Op op = Op::kRmsNormGated;
  static constexpr auto run = &Backend::rms_norm_gated;
};
template <>
struct Route<CausalConv1dArgs> {
  using Problem = CausalConv1dProblem;
  static constexpr Op op = Op::kCausalConv1d;
  static constexpr auto run = &Backend::causal_conv1d;
};

constexpr size_t kWorkspaceAlignment = 64;

// The caller's workspace, or memory of the call's own.
class Workspace {
 public:
  ~Workspace() { ::operator delete(owned_, std::align_val_t(kWorkspaceAlignment)); }

  Status acquire(const Context& context, const Plan& plan) {
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

Status no_plan(Op op) {
  return {StatusCode::kInvalidArgument,
          std::string(name_of(op)) + ": plan is a null pointer, expected where to put the plan"};
}

template <class Args>
Status run(Context& context, const Args& args) {
  return guarded(name_of(Route<Args>::op), [&]() -> Status {
    typename Route<Args>::Problem problem;
    if (Status status = check(args, &problem); !status.ok()) return status;
    Plan plan;
    const Backend* backend = nullptr;
    if (Status status = make_plan(context, problem.shape, &plan, &backend); !status.ok())
      return status;
    Workspace workspace;
    if (Status status = workspace.acquire(context, plan); !status.ok()) return status;
    return (backend->*Route<Args>::run)(Call{context, plan, workspace.data}, problem);
  });
}

template <class Args>
Status plan_args(const Context& context, const Args& args, Plan* plan) {
  return guarded(name_of(Route<Args>::op), [&]() -> Status {
    if (plan == nullptr) return no_plan(Route<Args>::op);
    typename Route<Args>::Problem problem;
    if (Status status = check(args, &problem); !status.ok()) return status;
    const Backend* backend = nullptr;
    return make_plan(context, problem.shape, plan, &backend);
  });
}

}  // namespace

Status chunk(Context& context, const ChunkArgs& args) { return run(context, args); }
Status recurrent(Context& context, const RecurrentArgs& args) { return run(context, args); }
Status replay_verify(Context& context, const ReplayVerifyArgs& args) { return run(context, args); }
Status replay_commit(Context& context, const ReplayCommitArgs& args) { return run(context, args); }
Status gating(Context& context, const GatingArgs& args) { return run(context, args); }
Status l2norm(Context& context, const L2normArgs& args) { return run(context, args); }
Status solve_tril(Context& context, const SolveTrilArgs& args) { return run(context, args); }
Status rms_norm_gated(Context& context, const RmsNormGatedArgs& args) { return run(context, args); }
Status causal_conv1d(Context& context, const CausalConv1dArgs& args) { return run(context, args); }

Status plan(const Context& context, const Shape& shape, Plan* plan) {
  return guarded(name_of(shape.op), [&]() -> Status {
    if (plan == nullptr) return no_plan(shape.op);
    if (Status status = check(shape); !status.ok()) return status;
    const Backend* backend = nullptr;
    return make_plan(context, shape, plan, &backend);
  });
}
Status plan(const Context& c, const ChunkArgs& args, Plan* plan) {
  return plan_args(c, args, plan);
}
Status plan(const Context& c, const RecurrentArgs& args, Plan* plan) {
  return plan_args(c, args, plan);
}
Status plan(const Context& c, const ReplayVerifyArgs& args, Plan* plan) {
  return plan_args(c, args, plan);
}
Status plan(const Context& c, const ReplayCommitArgs& args, Plan* plan) {
  return plan_args(c, args, plan);
}
Status plan(const Context& c, const GatingArgs& args, Plan* plan) {
  return plan_args(c, args, plan);
}
Status plan(const Context& c, const L2normArgs& args, Plan* plan) {
  return plan_args(c, args, plan);
}
Status plan(const Context& c, const SolveTrilArgs& args, Plan* plan) {
  return plan_args(c, args, plan);
}
Status plan(const Context& c, const RmsNormGatedArgs& args, Plan* plan) {
  return plan_args(c, args, plan);
}
Status plan(const Context& c, const CausalConv1dArgs& args, Plan* plan) {
  return plan_args(c, args, plan);
}

}  // namespace gdn
