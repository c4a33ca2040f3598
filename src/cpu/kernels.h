// The CPU kernels of one instruction set: what a target file (target_avx2.cc, ...) provides.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "gdn/plan.h"
#include "problem.h"

namespace gdn::cpu {

// V is split between tasks, and walked inside them, in units of 32 columns: a whole number of
// vector tiles on every instruction set. No sum runs over V, so a split changes no bit.
constexpr int64_t kUnit = 32;

// Tokens of a chunk in the fused kernels. 16 has the lowest share of the machine's peak among 16,
// 32 and 64, and the fewest FLOPs by more: docs/design.md.
constexpr int kChunk = 16;

// What the parts of a group each do for themselves (packing, gram matrices, gates), in the time
// that a unit of columns takes.
constexpr double kRepeated = 0.5;

constexpr int64_t units_of(int64_t V) { return (V + kUnit - 1) / kUnit; }

// How the work of a delta-rule operator is cut: a task is a sequence n, a q/k head, and a part of
// the units of that head's group of value heads. (value head in the group, unit) pairs are numbered
// head-major, part p has those from first_unit(p) to first_unit(p + 1).
struct Split {
  int64_t heads = 1;  // H
  int64_t group = 1;  // HV / H
  int64_t V = 1;
  int64_t parts = 1;
  // Tasks of this split that are one of the executor's. More than one are q/k heads of a sequence.
  // A chunk kernel may take them side by side, chunk by chunk: rows of their tokens are on the same
  // pages of memory, which are then looked up once for all of them. Decode prepares their tokens at
  // once, and its prefetches run on from one to the next.
  int64_t together = 1;

  struct Task {
    int64_t n, head, part;
  };
  Task task(int64_t i) const { return {i / (heads * parts), i / parts % heads, i % parts}; }
  int64_t first_unit(int64_t part) const { return group * units_of(V) * part / parts; }

  // Calls body(value head, first column, end column) for every value head that a task has columns
  // of.
  template <class Body>
  void for_each_range(const Task& task, const Body& body) const {
    const int64_t units = units_of(V);
    const int64_t end = first_unit(task.part + 1);
    for (int64_t unit = first_unit(task.part); unit < end;) {
      const int64_t in_group = unit / units;
      const int64_t next = std::min(end, (in_group + 1) * units);
      body(task.head * group + in_group, (unit - in_group * units) * kUnit,
           std::min(V, (next - in_group * units) * kUnit));
      unit = next;
    }
  }
  // The most units that a part has.
  int64_t max_units() const {
    const int64_t all = group * units_of(V);
    return (all + parts - 1) / parts;
  }
};

// Tasks of a split that are one task of the executor's, and whether the worker takes the one after
// them next, as far as can be told.
struct SplitTasks {
  int64_t begin, end;
  bool more;
};

// How the work of the convolution is cut: a task is a range of the rows (the tokens of all
// sequences, one sequence after the other) and a range of the channels. Every output depends on its
// own W inputs alone, so that no split changes a bit.
struct ConvSplit {
  int64_t rows = 0;
  int64_t ranges = 1;    // of rows
  int64_t channels = 1;  // D
  int64_t parts = 1;     // of channels

  struct Task {
    int64_t first_row, end_row;
    bool last;  // the last range: sequences without tokens at the end are its own
    int64_t first_channel, end_channel;
  };
  Task task(int64_t i) const {
    const int64_t range = i / parts, part = i % parts;
    return {rows * range / ranges, rows * (range + 1) / ranges, range == ranges - 1,
            first_channel(part), first_channel(part + 1)};
  }
  int64_t first_channel(int64_t part) const {
    return std::min(channels, units_of(channels) * part / parts * kUnit);
  }
};

// Every function runs one task, or tasks that it says, in `scratch`, memory of the worker that is
// aligned to 64 bytes and has the size the matching *_scratch function states. None throws.
struct Kernels {
  const char* name;
  const char* description;
  bool (*supported)();  // by this machine

  size_t (*chunk_scratch)(const Shape& shape, const Split& split);
  void (*chunk)(const DeltaRuleProblem& problem, const Split& split, int64_t task,
                std::byte* scratch);
  // The same with bfloat16 operands; nullptr where the instruction set has no such products. Here a
  // task is split.together of the split's.
  size_t (*chunk_bf16_scratch)(const Shape& shape, const Split& split);
  void (*chunk_bf16)(const DeltaRuleProblem& problem, const Split& split, int64_t task,
                     std::byte* scratch);
  int chunk_of_bf16 = kChunk;  // tokens of its chunk
  double repeated_of_bf16 = kRepeated;
  int64_t states_of_bf16 = 0;  // bytes of float32 states that it may walk side by side

  size_t (*recurrent_scratch)(const Shape& shape, const Split& split);
  void (*recurrent)(const DeltaRuleProblem& problem, const Split& split, const SplitTasks& tasks,
                    std::byte* scratch);

  size_t (*replay_scratch)(const Shape& shape, const Split& split);
  void (*replay)(const ReplayProblem& problem, const Split& split, int64_t task,
                 std::byte* scratch);

  // Rows [begin, end) of the B * T tokens.
  void (*gating)(const GatingProblem& problem, int64_t begin, int64_t end);
  // Rows [begin, end) of the flattened leading axes.
  void (*l2norm)(const L2normProblem& problem, int64_t begin, int64_t end);
  // One matrix.
  size_t (*solve_tril_scratch)(const Shape& shape);
  void (*solve_tril)(const SolveTrilProblem& problem, int64_t matrix, std::byte* scratch);
  // Rows [begin, end) of the flattened leading axes.
  size_t (*rms_norm_gated_scratch)(const Shape& shape);
  void (*rms_norm_gated)(const RmsNormGatedProblem& problem, int64_t begin, int64_t end,
                         std::byte* scratch);

  size_t (*causal_conv1d_scratch)(const Shape& shape);
  void (*causal_conv1d)(const CausalConv1dProblem& problem, const ConvSplit& split, int64_t task,
                        std::byte* scratch);
};

// The instruction sets of this build, the preferred first, down to one that is supported
// everywhere; behind it those that are taken only by name.
std::span<const Kernels* const> targets();

}  // namespace gdn::cpu
