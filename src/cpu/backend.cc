// The CPU backend: which instruction set runs a shape, how the work is cut into tasks, and the
// loops over them.
#include <algorithm>
#include <limits>
#include <vector>

#include "backend.h"
#include "cpu/fpmode.h"
#include "cpu/kernels.h"

namespace gdn {
namespace {

using cpu::ConvSplit;
using cpu::Kernels;
using cpu::Split;
using cpu::SplitTasks;

std::span<const KernelInfo> list_kernels() {
  static const std::vector<KernelInfo> list = [] {
    std::vector<KernelInfo> infos;
    for (const Kernels* target : cpu::targets()) {
      infos.push_back({"cpu", target->name, target->description, target->supported()});
    }
    return infos;
  }();
  return list;
}

// The target of that name, or the preferred one that this machine supports.
const Kernels* choose(std::string_view name) {
  const auto infos = list_kernels();
  for (size_t i = 0; i < infos.size(); ++i) {
    if (name.empty() ? infos[i].supported : infos[i].name == name) return cpu::targets()[i];
  }
  return nullptr;
}

const Kernels& kernels_of(const Plan& plan) { return *choose(plan.kernel); }

Split split_of(const Shape& shape, const Plan& plan) {
  const int64_t all = shape.sequences * shape.heads * plan.parts;
  return {shape.heads, shape.value_heads / shape.heads, shape.V, plan.parts,
          plan.tasks == 0 ? 1 : all / plan.tasks};
}

// Tasks per worker that dynamic scheduling wants, so that the last ones to finish differ little.
constexpr int64_t kTasksPerWorker = 4;

bool keep_workers_busy(int64_t tasks, int workers) {
  return workers <= 1 || tasks >= kTasksPerWorker * workers;
}

// Into how many parts a group of value heads is split: one, unless sequences and heads are too few
// to keep the workers busy.
int64_t parts_for(const Shape& shape, int workers) {
  const int64_t whole = std::max<int64_t>(1, shape.sequences * shape.heads);
  if (keep_workers_busy(whole, workers)) return 1;
  const int64_t units = shape.value_heads / shape.heads * cpu::units_of(shape.V);
  return std::clamp<int64_t>((kTasksPerWorker * workers + whole - 1) / whole, 1, units);
}

// The same for the chunk operator, whose parts each do some work anew (gram matrices, gates):
// `repeated`, in units of columns. As many parts as end first; workers are not equally fast, so
// that the end comes a quarter of a task later than the count says.
int64_t chunk_parts_for(const Shape& shape, int workers, double repeated) {
  const int64_t whole = std::max<int64_t>(1, shape.sequences * shape.heads);
  if (keep_workers_busy(whole, workers)) return 1;
  const int64_t units = shape.value_heads / shape.heads * cpu::units_of(shape.V);
  int64_t best = 1;
  double soonest = std::numeric_limits<double>::infinity();
  for (int64_t parts = 1; parts <= units; ++parts) {
    const int64_t rounds = (whole * parts + workers - 1) / workers;
    const int64_t most_units = (units + parts - 1) / parts;
    const double end =
        (static_cast<double>(rounds) + 0.25) * (static_cast<double>(most_units) + repeated);
    if (end >= soonest) continue;
    best = parts;
    soonest = end;
  }
  return best;
}

// How many q/k heads a task of the chunk operator has, whose states may have so many bytes. More
// than four gained nothing.
int64_t heads_together(const Shape& shape, int64_t parts, int workers, int64_t states) {
  constexpr int64_t kMost = 4;
  const int64_t state = shape.value_heads / shape.heads * shape.V * shape.K * int64_t{4};
  int64_t together = 1;
  while (parts == 1 && 2 * together <= kMost && shape.heads % (2 * together) == 0 &&
         2 * together * state <= states &&
         keep_workers_busy(shape.sequences * shape.heads / (2 * together), workers)) {
    together *= 2;
  }
  return together;
}

// In time for a task of the split: when the last of the workers ends.
int64_t end_of(int64_t tasks, int workers) { return (tasks + workers - 1) / workers; }

// A recurrent task is a part of a q/k head where sequences and heads are few, else a q/k head. In
// decode the number of tasks is halved while a sequence keeps two, the workers theirs, and the
// last of them does not end later: a slot is one long walk through memory, and the prefetches that
// run ahead of it fetch, at the end of a task, what the next one wants, or another worker is
// writing; and the tokens of a task's heads are prepared at once. With whole sequences the last
// worker would be alone for half of one. Over several tokens there is little of that to gain, and
// sequences of other lengths to balance.
constexpr int64_t kTasksPerSequence = 2;

int64_t recurrent_tasks(const Shape& shape, int64_t parts, int workers) {
  int64_t tasks = shape.sequences * shape.heads * parts;
  if (parts > 1 || shape.max_length != 1) return tasks;
  for (int64_t together = 2;
       shape.heads % together == 0 && shape.heads / together >= kTasksPerSequence &&
       keep_workers_busy(tasks / 2, workers) &&
       2 * end_of(tasks / 2, workers) <= end_of(tasks, workers);
       together *= 2) {
    tasks /= 2;
  }
  return tasks;
}

// Elements of an elementwise operator that are worth a task.
constexpr int64_t kElementsPerTask = 1 << 14;

int64_t rows_per_task(int64_t row_elements) {
  return std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, row_elements));
}

int64_t row_tasks(int64_t rows, int64_t row_elements) {
  const int64_t per_task = rows_per_task(row_elements);
  return (rows + per_task - 1) / per_task;
}

// Cuts the convolution into tasks of some size, into ranges of rows before ranges of channels.
void cut_causal_conv1d(const Shape& shape, int workers, Plan* plan) {
  if (shape.sequences == 0) return;
  const int64_t elements = (shape.tokens + shape.sequences * shape.state_length) * shape.V;
  const int64_t most = std::max<int64_t>(1, elements / kElementsPerTask);
  const int64_t tasks = workers <= 1 ? 1 : std::min(most, kTasksPerWorker * workers);
  const int64_t ranges = std::clamp<int64_t>(shape.tokens, 1, tasks);
  plan->parts = std::min((tasks + ranges - 1) / ranges, cpu::units_of(shape.V));
  plan->tasks = ranges * plan->parts;
}

ConvSplit conv_split_of(const Shape& shape, const Plan& plan) {
  return {shape.tokens, plan.tasks / plan.parts, shape.V, plan.parts};
}

bool takes_bf16(const Shape& shape, const Kernels& kernels) {
  const bool permitted = shape.compute == Compute::kBF16 ||
                         (shape.compute == Compute::kAuto && shape.dtype == DType::kBF16);
  return permitted && shape.dtype == DType::kBF16 && kernels.chunk_bf16 != nullptr;
}

Status plan_cpu(const Shape& shape, const PlanRequest& request, Plan* plan) {
  const Kernels* kernels = choose(request.kernel);
  if (kernels == nullptr || !kernels->supported()) {
    return {StatusCode::kUnsupported, "kernel \"" + std::string(request.kernel) +
                                          "\" is not supported by this processor, expected one "
                                          "that the list of kernels has as supported"};
  }
  plan->kernel = kernels->name;
  plan->reason = request.kernel.empty() ? "the best that this processor supports" : "forced";
  switch (shape.op) {
    case Op::kChunk: {
      const bool bf16 = takes_bf16(shape, *kernels);
      plan->chunk = bf16 ? kernels->chunk_of_bf16 : cpu::kChunk;
      plan->parts = chunk_parts_for(shape, request.workers,
                                    bf16 ? kernels->repeated_of_bf16 : cpu::kRepeated);
      plan->tasks =
          shape.sequences * shape.heads * plan->parts /
          heads_together(shape, plan->parts, request.workers, bf16 ? kernels->states_of_bf16 : 0);
      plan->compute = bf16 ? Compute::kBF16 : Compute::kF32;
      plan->workspace_bytes_per_worker =
          (bf16 ? kernels->chunk_bf16_scratch : kernels->chunk_scratch)(shape,
                                                                        split_of(shape, *plan));
      break;
    }
    case Op::kRecurrent:
      plan->parts = parts_for(shape, request.workers);
      plan->tasks = recurrent_tasks(shape, plan->parts, request.workers);
      plan->workspace_bytes_per_worker = kernels->recurrent_scratch(shape, split_of(shape, *plan));
      break;
    case Op::kReplayVerify:
    case Op::kReplayCommit:
      // One part: the records of a q/k head are read by all its value heads before they are
      // replaced.
      plan->tasks = shape.sequences * shape.heads;
      plan->workspace_bytes_per_worker = kernels->replay_scratch(shape, split_of(shape, *plan));
      break;
    case Op::kGating:
      plan->tasks = row_tasks(shape.tokens, shape.value_heads);
      break;
    case Op::kL2norm:
      plan->tasks = row_tasks(shape.sequences, shape.K);
      break;
    case Op::kSolveTril:
      plan->tasks = shape.sequences;
      plan->workspace_bytes_per_worker = kernels->solve_tril_scratch(shape);
      break;
    case Op::kRmsNormGated:
      plan->tasks = row_tasks(shape.sequences, shape.K);
      plan->workspace_bytes_per_worker = kernels->rms_norm_gated_scratch(shape);
      break;
    case Op::kCausalConv1d:
      cut_causal_conv1d(shape, request.workers, plan);
      plan->workspace_bytes_per_worker = kernels->causal_conv1d_scratch(shape);
      break;
  }
  return {};
}

Status run_chunk(const Call& call, const DeltaRuleProblem& problem) {
  const Split split = split_of(problem.shape, call.plan);
  const Kernels& kernels = kernels_of(call.plan);
  const auto task_of = call.plan.compute == Compute::kBF16 ? kernels.chunk_bf16 : kernels.chunk;
  call.for_each_task([&](int64_t task, int worker) {
    const cpu::FlushDenormals mode;
    task_of(problem, split, task, call.worker_workspace(worker));
  });
  zero_tail(problem.out, problem.sequences, problem.shape);
  return {};
}

Status run_recurrent(const Call& call, const DeltaRuleProblem& problem) {
  const Split split = split_of(problem.shape, call.plan);
  const Kernels& kernels = kernels_of(call.plan);
  const int workers = call.context.executor == nullptr ? 1 : call.context.executor->max_workers();
  call.for_each_task([&](int64_t task, int worker) {
    const cpu::FlushDenormals mode;
    const bool more = !TaskRanges::ends_range(task, call.plan.tasks, workers);
    const SplitTasks tasks = {task * split.together, (task + 1) * split.together, more};
    kernels.recurrent(problem, split, tasks, call.worker_workspace(worker));
  });
  zero_tail(problem.out, problem.sequences, problem.shape);
  return {};
}

Status run_replay(const Call& call, const ReplayProblem& problem) {
  const Split split = split_of(problem.shape, call.plan);
  const Kernels& kernels = kernels_of(call.plan);
  call.for_each_task([&](int64_t task, int worker) {
    const cpu::FlushDenormals mode;
    kernels.replay(problem, split, task, call.worker_workspace(worker));
  });
  if (problem.verifies()) zero_tail(problem.out, problem.sequences, problem.shape);
  return {};
}

// Runs rows(begin, end, worker) over all rows.
template <class Rows>
void for_each_row_range(const Call& call, int64_t count, int64_t row_elements, const Rows& rows) {
  const int64_t per_task = rows_per_task(row_elements);
  call.for_each_task([&](int64_t task, int worker) {
    const cpu::FlushDenormals mode;
    rows(task * per_task, std::min(count, (task + 1) * per_task), worker);
  });
}

Status run_gating(const Call& call, const GatingProblem& problem) {
  const Kernels& kernels = kernels_of(call.plan);
  for_each_row_range(call, problem.shape.tokens, problem.shape.value_heads,
                     [&](int64_t begin, int64_t end, int) { kernels.gating(problem, begin, end); });
  return {};
}

Status run_l2norm(const Call& call, const L2normProblem& problem) {
  const Kernels& kernels = kernels_of(call.plan);
  for_each_row_range(call, problem.shape.sequences, problem.shape.K,
                     [&](int64_t begin, int64_t end, int) { kernels.l2norm(problem, begin, end); });
  return {};
}

Status run_solve_tril(const Call& call, const SolveTrilProblem& problem) {
  const Kernels& kernels = kernels_of(call.plan);
  call.for_each_task([&](int64_t task, int worker) {
    const cpu::FlushDenormals mode;
    kernels.solve_tril(problem, task, call.worker_workspace(worker));
  });
  return {};
}

Status run_rms_norm_gated(const Call& call, const RmsNormGatedProblem& problem) {
  const Kernels& kernels = kernels_of(call.plan);
  for_each_row_range(call, problem.shape.sequences, problem.shape.K,
                     [&](int64_t begin, int64_t end, int worker) {
                       kernels.rms_norm_gated(problem, begin, end, call.worker_workspace(worker));
                     });
  return {};
}

Status run_causal_conv1d(const Call& call, const CausalConv1dProblem& problem) {
  const ConvSplit split = conv_split_of(problem.shape, call.plan);
  const Kernels& kernels = kernels_of(call.plan);
  call.for_each_task([&](int64_t task, int worker) {
    const cpu::FlushDenormals mode;
    kernels.causal_conv1d(problem, split, task, call.worker_workspace(worker));
  });
  zero_tail(problem.y, problem.sequences, problem.shape);
  return {};
}

}  // namespace

const Backend& cpu_backend() {
  static const Backend backend = {
      .name = "cpu",
      .device = DeviceType::kCPU,
      .kernels = &list_kernels,
      .plan = &plan_cpu,
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
