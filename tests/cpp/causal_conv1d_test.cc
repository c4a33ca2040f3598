// causal_conv1d() against the double reference, on every kernel, over draws in which every pair of
// values of two axes occurs; and what must not happen.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gdn/ops.h"
#include "guard_pages.h"
#include "kernels_under_test.h"
#include "pairs.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/random.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::CausalConv1dData;
using verify::Indices;
using verify::Packing;
using verify::States;
using verify::Strides;

enum AxisId {
  kT,
  kN,
  kD,
  kW,
  kSpare,
  kDType,
  kState,
  kFinalState,
  kWeight,
  kBias,
  kSilu,
  kChannelsLast,
  kStrides,
  kShift,
  kPacking,
  kTail,
  kIndices,
  kStates,
  kPadding,
  kHasInitial,
  kThreads,
  kAxisCount,
};
// Around W - 1 and S; the last one is cut into ranges of tokens when several threads run.
constexpr std::array<int64_t, 11> kLengths = {0, 1, 2, 3, 4, 5, 8, 9, 33, 130, 700};
constexpr std::array<int64_t, 3> kSequences = {1, 3, 17};
// Tails of every vector, more than a block, more than the parts of many threads.
constexpr std::array<int64_t, 7> kChannels = {1, 5, 16, 67, 128, 200, 1100};
constexpr std::array<int64_t, 6> kWidths = {1, 2, 3, 4, 5, 8};
constexpr std::array<int64_t, 4> kSpares = {0, 1, 2, 7};
constexpr std::array<int, 3> kThreadCounts = {1, 2, 5};
constexpr std::array<int, kAxisCount> kSizes = {11, 3, 7, 6, 4, 3, 3, 3, 3, 2, 2,
                                                2,  3, 2, 3, 2, 7, 5, 4, 2, 3};

template <class List>
auto at(const List& list, int value) {
  return list[static_cast<size_t>(std::max(0, value))];  // an open axis: the first, least one
}

// Numbers that the reference works on.
constexpr int64_t kCostLimit = 4'000'000;
int64_t cost_of(const Draw& draw) {
  const int64_t T = at(kLengths, draw[kT]);
  const bool rows = draw[kPacking] == static_cast<int>(Packing::kRows);
  const bool per_token = draw[kIndices] == static_cast<int>(Indices::kPerToken) ||
                         draw[kIndices] == static_cast<int>(Indices::kAccepted);
  const int64_t W = at(kWidths, draw[kW]);
  const int64_t S = W - 1 + at(kSpares, draw[kSpare]);
  const bool one_slot = draw[kIndices] == static_cast<int>(Indices::kOneSlot);
  const int64_t tokens = rows ? T * at(kSequences, draw[kN]) : T;
  return at(kChannels, draw[kD]) * (tokens * (W + (per_token ? 4 * S : 0)) +
                                    at(kSequences, draw[kN]) * (S + (one_slot ? T : 0)) * 4);
}

Case axes_of(const Draw& draw) {
  Case c;
  c.op = verify::Operator::kCausalConv1d;
  c.D = at(kChannels, draw[kD]);
  c.W = at(kWidths, draw[kW]);
  c.spare = at(kSpares, draw[kSpare]);
  c.dtype = static_cast<DType>(draw[kDType]);
  c.state = static_cast<DType>(draw[kState]);
  c.final_state = static_cast<DType>(draw[kFinalState]);
  c.weight = static_cast<DType>(draw[kWeight]);
  c.bias = draw[kBias] == 1;
  c.silu = draw[kSilu] == 1;
  c.channels_last = draw[kChannelsLast] == 1;
  c.strides = static_cast<Strides>(draw[kStrides]);
  c.shift = draw[kShift];
  c.packing = static_cast<Packing>(draw[kPacking]);
  c.tail = draw[kTail] == 1 ? 3 : 0;
  c.indices = static_cast<Indices>(draw[kIndices]);
  c.states = static_cast<States>(draw[kStates]);
  c.padding = static_cast<verify::Padding>(draw[kPadding]);
  c.has_initial = draw[kHasInitial] == 1;
  c.lengths = {};
  return c;
}

// Axes that verify::valid() ties together.
constexpr AxisId kTied[] = {kState,   kFinalState, kPacking, kTail,
                            kIndices, kStates,     kPadding, kHasInitial};

std::vector<Draw> tied_combinations() {
  std::vector<Draw> combinations;
  Draw draw(kAxisCount, 0);
  for (;;) {
    if (valid(axes_of(draw)).ok()) combinations.push_back(draw);
    size_t i = 0;
    while (i < std::size(kTied) && ++draw[kTied[i]] == kSizes[kTied[i]]) draw[kTied[i++]] = 0;
    if (i == std::size(kTied)) return combinations;
  }
}

struct DrawnCase {
  Case c;
  int threads = 1;
};

DrawnCase case_of(const Draw& draw, uint64_t seed) {
  Case c = axes_of(draw);
  c.seed = seed;
  const int64_t T = at(kLengths, draw[kT]);
  const auto N = static_cast<size_t>(at(kSequences, draw[kN]));
  c.lengths.assign(N, T);
  if (c.packing != Packing::kRows) {
    verify::Random random(seed, 1);
    const auto longest = static_cast<size_t>(random.below(static_cast<int64_t>(N)));
    // The others are short, so that a draw costs what cost_of() says, give or take.
    for (size_t n = 0; n < N; ++n) {
      if (n != longest) c.lengths[n] = random.below(std::min<int64_t>(T, 12) + 1);
    }
  }
  if (c.indices == Indices::kOneSlot) c.spare = std::max(c.spare, c.max_length() - 1);
  return {c, at(kThreadCounts, draw[kThreads])};
}

std::vector<DrawnCase> drawn_cases() {
  const std::vector<int> sizes(kSizes.begin(), kSizes.end());
  const std::vector<Draw> combinations = tied_combinations();
  const Possible possible = [&](const Draw& draw) {
    if (cost_of(draw) > kCostLimit) return false;
    return std::any_of(combinations.begin(), combinations.end(), [&](const Draw& combination) {
      return std::all_of(std::begin(kTied), std::end(kTied), [&](AxisId axis) {
        return draw[axis] == kOpen || draw[axis] == combination[axis];
      });
    });
  };
  std::vector<DrawnCase> cases;
  uint64_t seed = 1;
  for (const Draw& draw : cover_pairs(sizes, possible, 20241)) {
    if (!quick() || cost_of(draw) < 40'000) cases.push_back(case_of(draw, seed++));
  }
  return cases;
}

class CausalConv1d : public testing::TestWithParam<DrawnCase> {};

TEST_P(CausalConv1d, AgreesWithTheReference) {
  ASSERT_TRUE(valid(GetParam().c).ok()) << to_string(GetParam().c);
  expect_case(GetParam().c, GetParam().threads);
}

INSTANTIATE_TEST_SUITE_P(Draws, CausalConv1d, testing::ValuesIn(drawn_cases()),
                         [](const auto& p) { return std::to_string(p.param.c.seed); });

// Whole vectors of aligned channels, which kernels take together: every width, either layout of the
// states, all that may be stored of them.
TEST(CausalConv1dAligned, EveryWidthAndLayoutAgreesWithTheReference) {
  uint64_t seed = 300;
  for (int64_t W = 1; W <= 8; ++W) {
    for (Indices indices : {Indices::kNone, Indices::kPool32, Indices::kPerToken,
                            Indices::kAccepted, Indices::kOneSlot}) {
      for (bool channels_last : {false, true}) {
        const bool whole = indices == Indices::kNone || indices == Indices::kPool32;
        Case c;
        c.op = verify::Operator::kCausalConv1d;
        c.lengths = whole ? std::vector<int64_t>{1, 70, 0, 130, 3} : std::vector<int64_t>{1, 4, 2};
        c.D = 68;
        c.W = W;
        c.spare = indices == Indices::kOneSlot ? 3 : channels_last && seed % 4 == 1 ? 2 : 0;
        c.channels_last = channels_last;
        c.indices = indices;
        c.states = seed / 2 % 2 == 0 ? States::kInPlace : States::kSeparate;
        c.dtype = static_cast<DType>(seed / 2 % 3);
        c.state = c.final_state = static_cast<DType>(seed / 3 % 3);
        c.weight = static_cast<DType>(seed / 5 % 3);
        c.bias = seed % 3 == 0;
        c.silu = seed % 5 < 3;
        c.seed = seed++;
        ASSERT_TRUE(valid(c).ok()) << to_string(c);
        expect_case(c);
      }
    }
  }
}

// The formula by hand: W 2, no state, then the state it left.
TEST(CausalConv1dByHand, TwoTapsAndTheirState) {
  for_each_kernel([](Context& context) {
    const float x[] = {1, 10, 2, 20, 4, 40};
    const float weight[] = {.5f, 2, -1, 1};
    const float bias[] = {100, 0};
    float y[6], state[2];
    CausalConv1dArgs args;
    args.x = TensorView(x, {1, 3, 2});
    args.weight = TensorView(weight, {2, 2});
    args.bias = TensorView(bias, {2});
    args.y = TensorView(y, {1, 3, 2});
    args.final_state = TensorView(state, {1, 2, 1});
    expect_ok(causal_conv1d(context, args));
    EXPECT_EQ(std::vector<float>(y, y + 6), (std::vector<float>{102, 10, 104.5, 10, 109, 20}));
    EXPECT_EQ(state[0], 4);
    EXPECT_EQ(state[1], 40);
    args.initial_state = args.final_state;
    expect_ok(causal_conv1d(context, args));
    EXPECT_EQ(y[0], 100 + .5f * 4 + 2 * 1);
    EXPECT_EQ(y[1], -40 + 10);
  });
}

// num_accepted without indices is the same as with them, and as a call on the accepted tokens
// alone.
TEST(CausalConv1dSpeculation, OneSlotDropsWhatWasNotAccepted) {
  for_each_kernel([](Context& context) {
    constexpr int64_t N = 3, T = 4, D = 20, W = 4, S = W - 2 + T;
    verify::Random random(5);
    const auto tensor = [&](std::vector<int64_t> shape) {
      verify::Tensor t(DType::kF32, std::move(shape));
      for (int64_t i = 0; i < t.size(); ++i) t.set(i, random.normal());
      return t;
    };
    const verify::Tensor weight = tensor({D, W}), first = tensor({N, T, D}),
                         second = tensor({N, T, D}), before = tensor({N, D, S});
    verify::Tensor accepted(DType::kI32, {N});
    for (int64_t n = 0; n < N; ++n) accepted.set_int(n, 1 + n);
    const auto call = [&](const verify::Tensor& x, const verify::Tensor& state,
                          const verify::Tensor& y, bool speculative, int64_t n, int64_t tokens) {
      CausalConv1dArgs args;
      args.weight = weight.view();
      args.silu = true;
      const auto part = [&](TensorView view) {  // of sequence n, its first tokens
        if (n >= 0) {
          view.data = static_cast<std::byte*>(view.data) + n * view.strides[0] * 4;
          view.shape[0] = 1;
        }
        return view;
      };
      args.x = part(x.view());
      args.y = part(y.view());
      args.x.shape[1] = args.y.shape[1] = tokens;
      args.initial_state = args.final_state = part(state.view());
      if (speculative) args.num_accepted = accepted.view();
      expect_ok(causal_conv1d(context, args));
    };
    // Verify four tokens, then four more after those that were accepted.
    const verify::Tensor state = before.clone(), y(DType::kF32, {N, T, D});
    call(first, state, y, false, -1, T);
    call(second, state, y, true, -1, T);
    // Each sequence on its own: the accepted tokens, then the four.
    const verify::Tensor plain = before.clone(), expected(DType::kF32, {N, T, D});
    for (int64_t n = 0; n < N; ++n) {
      call(first, plain, expected, false, n, accepted.get_int(n));
      call(second, plain, expected, false, n, T);
    }
    for (int64_t i = 0; i < y.size(); ++i) ASSERT_TRUE(y.same_bits(i, expected, i)) << i;
    for (int64_t i = 0; i < state.size(); ++i) ASSERT_TRUE(state.same_bits(i, plain, i)) << i;
  });
}

Case small_case(DType dtype) {
  Case c;
  c.op = verify::Operator::kCausalConv1d;
  c.lengths = {40, 2, 33};
  c.D = 37;
  c.spare = 2;
  c.dtype = dtype;
  c.silu = true;
  c.seed = 12;
  return c;
}

// Which elements of a differ from b's.
template <class Concerned>
int64_t changed_elsewhere(const verify::Tensor& a, const verify::Tensor& b,
                          const Concerned& concerned) {
  int64_t changed = 0;
  for (int64_t i = 0; i < a.size(); ++i) changed += !concerned(i) && !a.same_bits(i, b, i);
  return changed;
}

TEST(CausalConv1dRobustness, NaNAndInfStayInTheirSequenceAndChannel) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Case c = small_case(dtype);
    const int64_t S = c.state_length();
    for_each_kernel([&](Context& context) {
      const CausalConv1dData clean = verify::make_causal_conv1d(c);
      expect_ok(causal_conv1d(context, clean.args()));
      for (double value : {std::nan(""), HUGE_VAL}) {
        // Token 30 of sequence 0 reaches the outputs of four tokens and no state.
        CausalConv1dData data = verify::make_causal_conv1d(c);
        data.x.set(30 * c.D + 17, value);
        expect_ok(causal_conv1d(context, data.args()));
        EXPECT_FALSE(std::isfinite(data.y.get(30 * c.D + 17)));
        EXPECT_EQ(changed_elsewhere(data.y, clean.y,
                                    [&](int64_t i) {
                                      const int64_t row = i / c.D;
                                      return i % c.D == 17 && row >= 30 && row < 30 + c.W;
                                    }),
                  0);
        EXPECT_EQ(
            changed_elsewhere(data.final_state, clean.final_state, [](int64_t) { return false; }),
            0);
        // The newest input of sequence 1's state.
        data = verify::make_causal_conv1d(c);
        data.initial_state.set((1 * c.D + 17) * S + S - 1, value);
        expect_ok(causal_conv1d(context, data.args()));
        EXPECT_FALSE(std::isfinite(data.y.get(40 * c.D + 17)));
        EXPECT_EQ(changed_elsewhere(
                      data.y, clean.y,
                      [&](int64_t i) { return i % c.D == 17 && (i / c.D == 40 || i / c.D == 41); }),
                  0);
        EXPECT_EQ(changed_elsewhere(data.final_state, clean.final_state,
                                    [&](int64_t i) { return i / S == c.D + 17; }),
                  0);
      }
    });
  }
}

TEST(CausalConv1dRobustness, NothingOutsideOfTheTensorsIsTouched) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int64_t D : {1, 3, 16, 37, 64, 1030}) {
      for (int64_t W : {1, 3, 4, 5}) {
        for (bool channels_last : {false, true}) {
          Case c = small_case(dtype);
          c.D = D;
          c.W = W;
          c.spare = W == 5 ? 2 : 0;
          c.state = c.final_state = c.weight = dtype;
          c.channels_last = channels_last;
          c.bias = true;
          c.indices = Indices::kPool32;
          const CausalConv1dData data = verify::make_causal_conv1d(c);
          for_each_kernel([&](Context& context) {
            SCOPED_TRACE(verify::repeat_line(c, context));
            for (GuardPages::Side side : {GuardPages::Side::kAfter, GuardPages::Side::kBefore}) {
              GuardPages pages(side);
              CausalConv1dArgs args = data.args();
              for (TensorView* view : {&args.x, &args.weight, &args.bias, &args.y, &args.cu_seqlens,
                                       &args.initial_state, &args.final_state,
                                       &args.initial_state_indices, &args.final_state_indices}) {
                if (view->size() > 0) pages.move(view);
              }
              expect_ok(causal_conv1d(context, args));
            }
          });
        }
      }
    }
  }
}

TEST(CausalConv1dRobustness, ACallersWorkspaceIsUsedWithinItsBounds) {
  for (int64_t spare : {0, 1, 9, 40}) {
    Case c = small_case(DType::kBF16);
    c.spare = spare;
    const verify::Expected expected(c);
    for_each_kernel([&](Context& context) {
      for (int threads : {1, 5}) {
        context.executor = executor_of(threads);
        Plan plan;
        expect_ok(gdn::plan(context, verify::make_causal_conv1d(c).args(), &plan));
        verify::Buffer workspace(plan.workspace_bytes);
        context.workspace = workspace.data();
        context.workspace_bytes = workspace.size();
        const verify::Result result = expected.run(context);
        EXPECT_TRUE(result.ok()) << verify::describe(result, c, context);
        EXPECT_TRUE(workspace.guards_intact()) << verify::repeat_line(c, context);
        context.workspace = nullptr;
      }
    });
  }
}

}  // namespace
}  // namespace gdn::tests
