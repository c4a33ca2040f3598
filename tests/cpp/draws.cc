#include "draws.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "verify/inputs.h"

namespace gdn::tests {
namespace {

using namespace verify;  // NOLINT: every name here is of verify/

enum AxisId {
  kT,
  kN,
  kHeads,
  kK,
  kV,
  kDType,
  kLayout,
  kStrides,
  kShift,
  kGates,
  kBeta,
  kNegEigval,
  kL2norm,
  kOptions,
  kChunkSize,
  kComputeAxis,
  kContextSplit,
  kThreads,
  kPacking,
  kTail,
  kState,
  kFinalState,
  kIndices,
  kStates,
  kPadding,
  kHasInitial,
  kCheckpoints,
  kAxisCount,
};
constexpr int kFirstTied = kPacking;

constexpr std::array<int64_t, 16> kLengths = {0,  1,  2,  15, 16,  17,  31,  32,
                                              33, 63, 64, 65, 127, 128, 129, 1000};
// A replay call verifies a handful of tokens; more is right, and costs a record each.
constexpr std::array<int64_t, 6> kReplayLengths = {0, 1, 2, 3, 8, 17};
constexpr std::array<int64_t, 3> kSequences = {1, 3, 17};
constexpr std::array<std::array<int64_t, 2>, 4> kHeadPairs = {{{1, 1}, {2, 4}, {16, 32}, {3, 9}}};
constexpr std::array<int64_t, 7> kDims = {8, 13, 64, 96, 128, 200, 256};
constexpr std::array<int64_t, 3> kThreadCounts = {1, 2, 5};

// Tokens times heads times K V that a draw may cost, states counted as a few tokens: what keeps the
// double reference at a fraction of a second a case. Pairs of the largest values fit.
constexpr int64_t kCostLimit = 30'000'000;
constexpr int64_t kStateCost = 2;     // of a sequence's states, in tokens
constexpr int64_t kPerTokenCost = 8;  // of a state stored after every token

const Axis kAxes[kAxisCount] = {
    {"T", kLengths.size(), true},
    {"N", kSequences.size(), true},
    {"heads", kHeadPairs.size(), true},
    {"K", kDims.size(), true},
    {"V", kDims.size(), true},
    {"dtype", 3, true},
    {"layout", 2, true},
    {"strides", 3, true},
    {"shift", 2, true},
    {"gates", 3, true},
    {"beta", 5, true},
    {"neg_eigval", 2, true},
    {"l2norm", 2, true},
    {"options", 2, true},
    {"chunk_size", 2, true},
    {"compute", 3, true},
    {"context_split", 3, true},
    {"threads", kThreadCounts.size(), true},
    {"packing", 3, false},
    {"tail", 2, false},
    {"state", 3, false},
    {"final_state", 3, false},
    {"indices", 6, false},
    {"states", 5, false},
    {"padding", 4, false},
    {"has_initial", 2, false},
    {"checkpoints", 3, false},
};

template <class List>
int64_t at(const List& list, int value, int64_t smallest) {
  return value == kOpen ? smallest : list[static_cast<size_t>(value)];
}

int64_t length_at(Operator op, int value) {
  return op == Operator::kReplay ? at(kReplayLengths, value, 0) : at(kLengths, value, 0);
}

// The least that a draw costs, whatever its open axes become.
int64_t cost_of(Operator op, const Draw& draw) {
  const int64_t T = length_at(op, draw[kT]);
  const int64_t N = at(kSequences, draw[kN], 1);
  const int64_t HV = draw[kHeads] == kOpen ? 1 : kHeadPairs[static_cast<size_t>(draw[kHeads])][1];
  const int64_t elements = HV * at(kDims, draw[kK], 8) * at(kDims, draw[kV], 8);
  const bool rows = draw[kPacking] == static_cast<int>(Packing::kRows);
  const bool per_token = draw[kIndices] == static_cast<int>(Indices::kPerToken) ||
                         draw[kIndices] == static_cast<int>(Indices::kAccepted);
  return ((rows ? T * N : T) * (per_token ? kPerTokenCost : 1) + kStateCost * N) * elements;
}

// Sets the fields that verify::valid() ties together.
void set_tied(const Draw& draw, Case* c) {
  c->packing = static_cast<Packing>(draw[kPacking]);
  c->tail = draw[kTail] == 1 ? 3 : 0;
  c->state = static_cast<DType>(draw[kState]);
  c->final_state = static_cast<DType>(draw[kFinalState]);
  c->indices = static_cast<Indices>(draw[kIndices]);
  c->states = static_cast<States>(draw[kStates]);
  c->padding = static_cast<Padding>(draw[kPadding]);
  c->has_initial = draw[kHasInitial] == 1;
  c->checkpoint_every = 64 * draw[kCheckpoints];
}

// Every combination of the tied axes that is valid.
std::vector<Draw> tied_combinations(Operator op) {
  std::vector<Draw> combinations;
  Draw draw(kAxisCount, 0);
  for (;;) {
    Case c;
    c.op = op;
    set_tied(draw, &c);
    if (valid(c).ok()) combinations.push_back(draw);
    int axis = kFirstTied;
    while (axis < kAxisCount && ++draw[static_cast<size_t>(axis)] == kAxes[axis].values) {
      draw[static_cast<size_t>(axis++)] = 0;
    }
    if (axis == kAxisCount) return combinations;
  }
}

}  // namespace

std::vector<Axis> axes_of(Operator op) {
  std::vector<Axis> axes(std::begin(kAxes), std::end(kAxes));
  if (op == Operator::kReplay) {
    axes[kT].values = kReplayLengths.size();
    axes[kComputeAxis].values = 1;
  }
  if (op != Operator::kChunk) axes[kChunkSize].values = axes[kContextSplit].values = 1;
  return axes;
}

Possible possible_of(Operator op) {
  return [op, combinations = tied_combinations(op)](const Draw& draw) {
    if (cost_of(op, draw) > kCostLimit) return false;
    return std::any_of(combinations.begin(), combinations.end(), [&](const Draw& combination) {
      for (int axis = kFirstTied; axis < kAxisCount; ++axis) {
        const auto i = static_cast<size_t>(axis);
        if (draw[i] != kOpen && draw[i] != combination[i]) return false;
      }
      return true;
    });
  };
}

std::vector<Draw> draws_of(Operator op) {
  std::vector<int> sizes;
  for (const Axis& axis : axes_of(op)) sizes.push_back(axis.values);
  return cover_pairs(sizes, possible_of(op), 20240 + static_cast<uint64_t>(op));
}

DrawnCase case_of(Operator op, const Draw& draw, uint64_t seed) {
  Case c;
  c.op = op;
  c.seed = seed;
  set_tied(draw, &c);
  c.H = kHeadPairs[static_cast<size_t>(draw[kHeads])][0];
  c.HV = kHeadPairs[static_cast<size_t>(draw[kHeads])][1];
  c.K = kDims[static_cast<size_t>(draw[kK])];
  c.V = kDims[static_cast<size_t>(draw[kV])];
  c.dtype = static_cast<DType>(draw[kDType]);
  c.layout = static_cast<StateLayout>(draw[kLayout]);
  c.strides = static_cast<Strides>(draw[kStrides]);
  c.shift = draw[kShift];
  c.gates = static_cast<Gates>(draw[kGates]);
  c.beta = static_cast<Beta>(draw[kBeta]);
  c.neg_eigval = draw[kNegEigval] == 1;
  c.l2norm = draw[kL2norm] == 1;
  if (draw[kOptions] == 1) {
    c.scale = .3;
    c.l2norm_eps = .5;
    c.softplus_beta = 2;
    c.softplus_threshold = 1;
  }
  if (draw[kChunkSize] == 1) c.chunk_size = 24;
  c.compute = static_cast<Compute>(draw[kComputeAxis]);
  c.context_split = static_cast<ContextSplit>(draw[kContextSplit]);

  // One sequence has T tokens; the others have fewer where the packing lets them and the cost
  // allows no more.
  const int64_t T = length_at(op, draw[kT]);
  const auto N = static_cast<size_t>(kSequences[static_cast<size_t>(draw[kN])]);
  c.lengths.assign(N, T);
  if (c.packing != Packing::kRows) {
    Random random(seed, 1);
    const auto longest = static_cast<size_t>(random.below(static_cast<int64_t>(N)));
    const int64_t token_cost = c.HV * c.K * c.V;
    int64_t left = std::max<int64_t>(0, kCostLimit - cost_of(op, draw)) / token_cost;
    if (c.indices == Indices::kPerToken || c.indices == Indices::kAccepted) left /= kPerTokenCost;
    for (size_t n = 0; n < N; ++n) {
      if (n == longest) continue;
      c.lengths[n] = std::min(left, random.below(T + 1));
      left -= c.lengths[n];
    }
  }
  return {c, static_cast<int>(kThreadCounts[static_cast<size_t>(draw[kThreads])])};
}

}  // namespace gdn::tests
