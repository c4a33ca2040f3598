// The table of backends. A backend says what it would do with a shape and runs problems; a library
// of its own (CUDA) adds itself by install().
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

#include "gdn/context.h"
#include "gdn/plan.h"
#include "gdn/status.h"
#include "problem.h"
#include "task_ranges.h"

namespace gdn {

// A planned call: `workspace` has plan.workspace_bytes, aligned to 64 bytes.
struct Call {
  const Context& context;
  const Plan& plan;
  std::byte* workspace;

  std::byte* worker_workspace(int worker) const {
    return workspace + plan.workspace_bytes_per_worker * static_cast<size_t>(worker);
  }
  // Runs body(task, worker) for every task of the plan.
  template <class Body>
  void for_each_task(const Body& body) const {
    if (context.executor == nullptr || plan.tasks <= 1) {
      for (int64_t task = 0; task < plan.tasks; ++task) body(task, 0);
      return;
    }
    const int workers = context.executor->max_workers();
    struct Work {
      TaskRanges ranges;
      const Body& body;
    } work{{plan.tasks, workers}, body};
    context.executor->run(
        std::min<int64_t>(plan.tasks, workers),
        [](void* closure, int64_t, int worker) {
          auto* all = static_cast<Work*>(closure);
          all->ranges.work(worker, all->body);
        },
        &work);
  }
};

struct PlanRequest {
  std::string_view kernel;  // forced; empty: choose
  int workers = 1;
};

struct Backend {
  std::string_view name;
  DeviceType device;

  // Its kernels, the preferred first.
  std::span<const KernelInfo> (*kernels)();
  // Fills the plan. kUnsupported, with a message that starts after "gdn.<op>: ", where it cannot.
  Status (*plan)(const Shape&, const PlanRequest&, Plan*);

  Status (*chunk)(const Call&, const DeltaRuleProblem&);
  Status (*recurrent)(const Call&, const DeltaRuleProblem&);
  Status (*replay)(const Call&, const ReplayProblem&);
  Status (*gating)(const Call&, const GatingProblem&);
  Status (*l2norm)(const Call&, const L2normProblem&);
  Status (*solve_tril)(const Call&, const SolveTrilProblem&);
  Status (*rms_norm_gated)(const Call&, const RmsNormGatedProblem&);
  Status (*causal_conv1d)(const Call&, const CausalConv1dProblem&);
};

// In order of preference; the reference comes last and is taken only when it is forced.
std::span<const Backend* const> backends();

// Adds a backend before the reference. Not to be called while operators run. Ignores a second
// install of the same backend; false when the table is full.
bool install(const Backend* backend);

const Backend& cpu_backend();        // cpu/backend.cc
const Backend& reference_backend();  // reference/backend.cc

}  // namespace gdn
