// The reference as a backend: taken only when it is forced by its name.
#include "backend.h"

#include <vector>

#include "reference/causal_conv1d.h"
#include "reference/chunked.h"
#include "reference/gating.h"
#include "reference/l2norm.h"
#include "reference/recurrent.h"
#include "reference/replay.h"
#include "reference/rms_norm_gated.h"
#include "reference/solve_tril.h"
#include "reference/tasks.h"
#include "reference/tensor_io.h"

namespace gdn {
namespace {

std::span<const KernelInfo> list_kernels() {
  static const KernelInfo list[] = {
      {"reference", "reference", "the definition in double, plain loops", true}};
  return list;
}

Status plan_reference(const Shape& shape, const PlanRequest&, Plan* plan) {
  plan->kernel = "reference";
  plan->reason = "forced";
  plan->compute = Compute::kF32;  // nothing is rounded to bfloat16
  switch (shape.op) {
    case Op::kChunk:
      plan->chunk = shape.chunk_size;
      plan->tasks = shape.sequences * shape.value_heads;
      break;
    case Op::kRecurrent:
      plan->tasks = shape.sequences * shape.value_heads;
      break;
    case Op::kReplayVerify:
    case Op::kReplayCommit:
      plan->tasks = shape.sequences * shape.heads;
      break;
    case Op::kGating:
    case Op::kL2norm:
    case Op::kSolveTril:
    case Op::kRmsNormGated:
    case Op::kCausalConv1d:
      plan->tasks = shape.sequences;
      break;
  }
  return {};
}

// Something for each worker, made before the first task runs: whatever fails, fails before anything
// is written.
template <class T>
std::vector<T> per_worker(const Call& call, const T& value) {
  return std::vector<T>(static_cast<size_t>(reference::worker_count(call.context.executor)), value);
}

// Runs body(task, worker) for every task of the plan, which do not throw.
template <class Body>
void for_each_task(const Call& call, const Body& body) {
  reference::run_tasks(call.context.executor, call.plan.tasks, body);
}

Status run_chunk(const Call& call, const DeltaRuleProblem& problem) {
  reference::chunk(problem, call.context.executor);
  zero_tail(problem.out, problem.sequences, problem.shape);
  return {};
}

Status run_recurrent(const Call& call, const DeltaRuleProblem& problem) {
  auto scratch = per_worker(call, reference::Scratch(problem.shape));
  const int64_t heads = problem.shape.value_heads;
  for_each_task(call, [&](int64_t task, int worker) {
    reference::recurrent(problem, task / heads, task % heads,
                         &scratch[static_cast<size_t>(worker)]);
  });
  zero_tail(problem.out, problem.sequences, problem.shape);
  return {};
}

Status run_replay(const Call& call, const ReplayProblem& problem) {
  auto scratch = per_worker(call, reference::Scratch(problem.shape));
  const int64_t heads = problem.shape.heads;
  for_each_task(call, [&](int64_t task, int worker) {
    reference::replay(problem, task / heads, task % heads, &scratch[static_cast<size_t>(worker)]);
  });
  if (problem.verifies()) zero_tail(problem.out, problem.sequences, problem.shape);
  return {};
}

Status run_gating(const Call& call, const GatingProblem& problem) {
  for_each_task(call, [&](int64_t batch, int) { reference::gating(problem, batch); });
  return {};
}

Status run_l2norm(const Call& call, const L2normProblem& problem) {
  const std::vector<double> row(static_cast<size_t>(problem.shape.K));
  auto buffers = per_worker(call, row);
  for_each_task(call, [&](int64_t i, int worker) {
    reference::l2norm(problem, i, buffers[static_cast<size_t>(worker)].data());
  });
  return {};
}

Status run_solve_tril(const Call& call, const SolveTrilProblem& problem) {
  const std::vector<double> matrices(static_cast<size_t>(3 * problem.shape.K * problem.shape.K));
  auto buffers = per_worker(call, matrices);
  for_each_task(call, [&](int64_t matrix, int worker) {
    reference::solve_tril(problem, matrix, buffers[static_cast<size_t>(worker)].data());
  });
  return {};
}

Status run_rms_norm_gated(const Call& call, const RmsNormGatedProblem& problem) {
  const std::vector<double> rows(static_cast<size_t>(3 * problem.shape.K));
  auto buffers = per_worker(call, rows);
  for_each_task(call, [&](int64_t i, int worker) {
    reference::rms_norm_gated(problem, i, buffers[static_cast<size_t>(worker)].data());
  });
  return {};
}

Status run_causal_conv1d(const Call& call, const CausalConv1dProblem& problem) {
  const std::vector<double> inputs(
      static_cast<size_t>(reference::causal_conv1d_buffer(problem.shape)));
  auto buffers = per_worker(call, inputs);
  for_each_task(call, [&](int64_t n, int worker) {
    reference::causal_conv1d(problem, n, buffers[static_cast<size_t>(worker)].data());
  });
  zero_tail(problem.y, problem.sequences, problem.shape);
  return {};
}

}  // namespace

const Backend& reference_backend() {
  static const Backend backend = {
      .name = "reference",
      .device = DeviceType::kCPU,
      .kernels = &list_kernels,
      .plan = &plan_reference,
      .chunk = &run_chunk,
      .recurrent = &run_recurrent,
      .replay = &run_replay,
      .gating = &run_gating,
      .l2norm = &run_l2norm,
      .solve_tril = &run_solve_tril,
      .rms_norm_gated = &run_rms_norm_gated,
      .causal_conv1d = &run_causal_conv1d,
  };
  return backend;
}

}  // namespace gdn
