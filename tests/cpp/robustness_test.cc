// What must not happen: NaN that spreads, reads past an end, calls that disturb each other, a
// workspace overrun.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "gdn/ops.h"
#include "gdn/plan.h"
#include "guard_pages.h"
#include "kernels_under_test.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::DeltaRuleData;
using verify::Operator;
using verify::Tensor;

class Robustness : public testing::TestWithParam<Operator> {};

Case small_case(Operator op, DType dtype) {
  Case c;
  c.op = op;
  c.H = 2;
  c.HV = 4;
  c.K = quick() ? 16 : 64;
  c.V = quick() ? 40 : 96;
  c.dtype = dtype;
  c.lengths = {70, 33, 64};
  c.seed = 11;
  return c;
}

// NaN and Inf stay in their sequence and head.

struct Spoiled {
  std::string name;
  Tensor DeltaRuleData::*tensor;
  int64_t heads;                  // of the tensor
  int64_t width;                  // elements of a head and token
  bool of_all_sequences = false;  // one value a head, for all tokens
};

// The inputs that are there: gates given, or computed inside.
std::vector<Spoiled> inputs_of(const Case& c) {
  std::vector<Spoiled> inputs = {{"q", &DeltaRuleData::q, c.H, c.K},
                                 {"k", &DeltaRuleData::k, c.H, c.K},
                                 {"v", &DeltaRuleData::v, c.HV, c.V}};
  if (c.gates == verify::Gates::kGiven) {
    inputs.push_back({"g", &DeltaRuleData::g, c.HV, 1});
    inputs.push_back({"beta", &DeltaRuleData::beta, c.HV, 1});
  } else {
    inputs.push_back({"a", &DeltaRuleData::a, c.HV, 1});
    inputs.push_back({"b", &DeltaRuleData::b, c.HV, 1});
    inputs.push_back({"A_log", &DeltaRuleData::A_log, c.HV, 1, true});
    inputs.push_back({"dt_bias", &DeltaRuleData::dt_bias, c.HV, 1, true});
  }
  return inputs;
}

// Spoils one element and calls: out and states of other sequences and heads keep their bits.
void expect_contained(const Context& context, const Case& c, const DeltaRuleData& clean,
                      const Spoiled& what, double value, int64_t token_of_sequence) {
  SCOPED_TRACE(what.name + " " + std::to_string(value) + " at token " +
               std::to_string(token_of_sequence) + ": " + verify::repeat_line(c, context));
  const int64_t group = c.HV / c.H;
  DeltaRuleData data = verify::make_delta_rule(c);
  const int64_t token = what.of_all_sequences ? 0 : c.lengths[0] + token_of_sequence;
  const int64_t head = 1;  // of the tensor
  (data.*what.tensor).set((token * what.heads + head) * what.width + what.width / 2, value);
  Context own = context;
  expect_ok(verify::call(own, data));
  const auto concerned = [&](int64_t value_head, bool in_sequence) {
    return (in_sequence || what.of_all_sequences) &&
           (what.heads == c.HV ? value_head == head : value_head / group == head);
  };
  bool shows = false;
  int64_t changed = 0;
  for (int64_t i = 0; i < data.out.size(); ++i) {
    const int64_t row = i / (c.HV * c.V);
    const bool in_sequence = row >= c.lengths[0] && row < c.lengths[0] + c.lengths[1];
    if (concerned(i / c.V % c.HV, in_sequence)) {
      shows = shows || !std::isfinite(data.out.get(i));
    } else {
      changed += !data.out.same_bits(i, clean.out, i);
    }
  }
  for (int64_t i = 0; i < data.final_state.size(); ++i) {
    const int64_t state_head = i / (c.V * c.K);
    if (!concerned(state_head % c.HV, state_head / c.HV == 1)) {
      changed += !data.final_state.same_bits(i, clean.final_state, i);
    }
  }
  // Infinity in what g or beta come from is a gate that forgets all, or a beta of 1.
  const bool saturates = std::isinf(value) && c.gates != verify::Gates::kGiven &&
                         what.heads == c.HV && what.width == 1;
  if (saturates) {
    EXPECT_FALSE(shows) << "a gate that is closed or open is a number";
  } else {
    EXPECT_TRUE(shows) << "nothing is left of it";
  }
  EXPECT_EQ(changed, 0) << "elements of other sequences and heads changed";
}

TEST_P(Robustness, NaNAndInfStayInTheirSequenceAndHead) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool computed : {false, true}) {
      Case c = small_case(GetParam(), dtype);
      if (computed) {
        c.gates = verify::Gates::kComputed;
        c.beta = verify::Beta::kFromB;
      }
      for_each_kernel([&](Context& context) {
        const DeltaRuleData clean = verify::make_delta_rule(c);
        expect_ok(verify::call(context, clean));
        for (const Spoiled& what : inputs_of(c)) {
          if (computed && what.width > 1) continue;  // q, k and v: as with given gates
          for (const double value : {std::nan(""), kInfinity}) {
            for (const int64_t token : {0, 20}) {
              expect_contained(context, c, clean, what, value, token);
              if (what.of_all_sequences) break;
            }
          }
        }
      });
    }
  }
}

TEST_P(Robustness, NaNInAStateStaysInItsSequenceAndHead) {
  const Case c = small_case(GetParam(), DType::kF32);
  for_each_kernel([&](Context& context) {
    const DeltaRuleData clean = verify::make_delta_rule(c);
    expect_ok(verify::call(context, clean));
    DeltaRuleData data = verify::make_delta_rule(c);
    const int64_t head_elements = c.V * c.K;
    data.initial_state.set((1 * c.HV + 2) * head_elements + 5, std::nan(""));
    expect_ok(verify::call(context, data));
    int64_t changed = 0;
    for (int64_t i = 0; i < data.out.size(); ++i) {
      const int64_t row = i / (c.HV * c.V);
      const bool in_sequence = row >= c.lengths[0] && row < c.lengths[0] + c.lengths[1];
      if (!in_sequence || i / c.V % c.HV != 2) changed += !data.out.same_bits(i, clean.out, i);
    }
    for (int64_t i = 0; i < data.final_state.size(); ++i) {
      if (i / head_elements != c.HV + 2) {
        changed += !data.final_state.same_bits(i, clean.final_state, i);
      }
    }
    EXPECT_EQ(changed, 0) << "elements of other sequences and heads changed";
  });
}

// Roundings by integer arithmetic would carry out of a NaN whose bits are all ones.
TEST_P(Robustness, ANaNOfAnyBitsReachesTheState) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    Case c = small_case(GetParam(), dtype);
    c.beta = verify::Beta::kGivenF32;
    for_each_kernel([&](Context& context) {
      for (Tensor DeltaRuleData::*gate : {&DeltaRuleData::g, &DeltaRuleData::beta}) {
        // In the middle of a chunk of any size, where later rows take it up, and the last.
        for (const int64_t token : {int64_t{37}, c.lengths[0] - 1}) {
          DeltaRuleData data = verify::make_delta_rule(c);
          const int64_t head = 1;
          Tensor& spoiled = data.*gate;
          std::memset(spoiled.element(token * c.HV + head), 0xff,
                      static_cast<size_t>(size_of(spoiled.dtype())));
          expect_ok(verify::call(context, data));
          int64_t finite = 0;
          for (int64_t i = 0; i < c.V * c.K; ++i) {
            finite += std::isfinite(data.final_state.get(head * c.V * c.K + i));
          }
          EXPECT_EQ(finite, 0) << "token " << token << ": " << verify::repeat_line(c, context);
        }
      }
    });
  }
}

template <class Args>
void move_all(GuardPages* pages, Args* args) {
  for (TensorView* view :
       {&args->q, &args->k, &args->v, &args->out, &args->g, &args->A_log, &args->a, &args->dt_bias,
        &args->beta, &args->b, &args->cu_seqlens, &args->initial_state, &args->final_state,
        &args->initial_state_indices, &args->final_state_indices, &args->has_initial_state,
        &args->num_accepted}) {
    pages->move(view);
  }
}

TEST_P(Robustness, NothingOutsideOfTheTensorsIsTouched) {
  struct Dims {
    int64_t K, V;
  };
  for (const Dims& dims : {Dims{8, 8}, Dims{1, 3}, Dims{13, 17}, Dims{96, 40}, Dims{128, 128}}) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (StateLayout layout : {StateLayout::kVK, StateLayout::kKV}) {
        for (bool computed : {false, true}) {
          if (quick() && (dims.K == 128 || layout == StateLayout::kKV)) continue;
          Case c = small_case(GetParam(), dtype);
          c.K = dims.K;
          c.V = dims.V;
          c.state = c.final_state = dtype;
          c.layout = layout;
          c.lengths = {33, 1, 18};
          c.indices = verify::Indices::kPool32;
          c.has_initial = true;
          if (computed) {
            c.gates = verify::Gates::kComputed;
            c.beta = verify::Beta::kFromB;
            c.l2norm = true;
          }
          if (GetParam() == Operator::kChunk && computed) c.lengths = {65, 1, 18};
          for_each_kernel([&](Context& context) {
            SCOPED_TRACE(verify::repeat_line(c, context));
            const DeltaRuleData data = verify::make_delta_rule(c);
            for (GuardPages::Side side : {GuardPages::Side::kAfter, GuardPages::Side::kBefore}) {
              GuardPages pages(side);
              if (GetParam() == Operator::kChunk) {
                ChunkArgs args = data.chunk_args();
                move_all(&pages, &args);
                expect_ok(chunk(context, args));
              } else {
                RecurrentArgs args = data.recurrent_args();
                move_all(&pages, &args);
                expect_ok(recurrent(context, args));
              }
            }
          });
        }
      }
    }
  }
}

TEST(RobustnessOfReplay, NothingOutsideOfTheTensorsIsTouched) {
  for (int64_t K : {1, 8, 13, 96, 128}) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      Case c = small_case(Operator::kReplay, dtype);
      c.K = K;
      c.V = K == 13 ? 17 : K;
      c.state = c.final_state = dtype;
      c.states = verify::States::kInPlace;
      c.lengths = {3, 0, 5};
      for_each_kernel([&](Context& context) {
        SCOPED_TRACE(verify::repeat_line(c, context));
        const verify::ReplayData data = verify::make_replay(c);
        for (GuardPages::Side side : {GuardPages::Side::kAfter, GuardPages::Side::kBefore}) {
          GuardPages pages(side);
          ReplayVerifyArgs args = data.verify_args();
          for (TensorView* view :
               {&args.q, &args.k, &args.v, &args.out, &args.g, &args.beta, &args.cu_seqlens,
                &args.state, &args.num_accepted, &args.record_k, &args.record_v, &args.record_g}) {
            pages.move(view);
          }
          expect_ok(replay_verify(context, args));
          ReplayCommitArgs commit(c.layout);
          commit.state = args.state;
          commit.num_accepted = data.commit_accepted.view();
          commit.record_k = args.record_k;
          commit.record_v = args.record_v;
          commit.record_g = args.record_g;
          expect_ok(replay_commit(context, commit));
        }
      });
    }
  }
}

// Concurrent calls.

TEST_P(Robustness, CallsOfSeveralThreadsAtATimeGiveTheBitsOfOneAlone) {
  const Case c = small_case(GetParam(), DType::kF32);
  for_each_kernel([&](Context& context) {
    for (int threads : {1, 3}) {
      context.executor = executor_of(threads);
      const DeltaRuleData alone = verify::make_delta_rule(c);
      expect_ok(verify::call(context, alone));
      constexpr size_t kCallers = 4;
      std::vector<DeltaRuleData> data;
      for (size_t i = 0; i < kCallers; ++i) data.push_back(verify::make_delta_rule(c));
      std::vector<Status> statuses(kCallers);
      std::vector<std::thread> callers;
      for (size_t i = 0; i < kCallers; ++i) {
        callers.emplace_back([&, i] { statuses[i] = verify::call(context, data[i]); });
      }
      for (std::thread& caller : callers) caller.join();
      for (size_t i = 0; i < kCallers; ++i) {
        expect_ok(statuses[i]);
        int64_t different = 0;
        for (int64_t j = 0; j < alone.out.size(); ++j) {
          different += !data[i].out.same_bits(j, alone.out, j);
        }
        for (int64_t j = 0; j < alone.final_state.size(); ++j) {
          different += !data[i].final_state.same_bits(j, alone.final_state, j);
        }
        EXPECT_EQ(different, 0) << verify::repeat_line(c, context);
      }
    }
  });
}

// The caller's workspace.

TEST_P(Robustness, ACallersWorkspaceIsUsedWithinItsBounds) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Case c = small_case(GetParam(), dtype);
    const verify::Expected expected(c);
    for_each_kernel([&](Context& context) {
      for (int threads : {1, 5}) {
        context.executor = executor_of(threads);
        const DeltaRuleData data = verify::make_delta_rule(c);
        Plan plan;
        expect_ok(GetParam() == Operator::kChunk
                      ? gdn::plan(context, data.chunk_args(), &plan)
                      : gdn::plan(context, data.recurrent_args(), &plan));
        verify::Buffer workspace(plan.workspace_bytes);  // its bytes of ones are NaN, too
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

TEST_P(Robustness, AWorkspaceTooSmallOrMisalignedIsRefusedAndNothingWritten) {
  const Case c = small_case(GetParam(), DType::kF32);
  const verify::Expected expected(c);
  for_each_kernel([&](Context& context) {
    const DeltaRuleData data = verify::make_delta_rule(c);
    Plan plan;
    expect_ok(GetParam() == Operator::kChunk ? gdn::plan(context, data.chunk_args(), &plan)
                                             : gdn::plan(context, data.recurrent_args(), &plan));
    verify::Buffer workspace(plan.workspace_bytes + 64);
    context.workspace = workspace.data() + 32;
    context.workspace_bytes = workspace.size() - 32;
    verify::Result result = expected.run(context);
    EXPECT_EQ(result.status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(result.status.message().find("workspace"), std::string::npos);
    EXPECT_TRUE(result.defects.empty()) << verify::describe(result, c, context);
    if (plan.workspace_bytes == 0) return;
    context.workspace = workspace.data();
    context.workspace_bytes = plan.workspace_bytes - 1;
    result = expected.run(context);
    EXPECT_EQ(result.status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(result.status.message().find("workspace"), std::string::npos);
    EXPECT_TRUE(result.defects.empty()) << verify::describe(result, c, context);
  });
}

// Names of kernels.

TEST_P(Robustness, EveryListedKernelWorksOrIsRefusedByName) {
  const Case c = small_case(GetParam(), DType::kF32);
  const verify::Expected expected(c);
  for (const KernelInfo& kernel : kernels()) {
    Context context;
    const std::string name(kernel.name);
    context.kernel = name.c_str();
    const verify::Result result = expected.run(context);
    if (kernel.supported) {
      EXPECT_TRUE(result.ok()) << verify::describe(result, c, context);
      EXPECT_EQ(result.plan.kernel, kernel.name);
    } else {
      EXPECT_EQ(result.status.code(), StatusCode::kUnsupported);
      EXPECT_NE(result.status.message().find(name), std::string::npos) << result.status.message();
      EXPECT_TRUE(result.defects.empty());
    }
  }
}

TEST_P(Robustness, AnUnknownKernelIsRefusedByNameWithTheOnesThereAre) {
  const Case c = small_case(GetParam(), DType::kF32);
  Context context;
  context.kernel = "abacus";
  const verify::Result result = verify::run(context, c);
  EXPECT_EQ(result.status.code(), StatusCode::kUnsupported);
  EXPECT_NE(result.status.message().find("\"abacus\""), std::string::npos);
  for (const KernelInfo& kernel : kernels()) {
    const bool listed = result.status.message().find(kernel.name) != std::string::npos;
    if (kernel.supported) {
      EXPECT_TRUE(listed) << kernel.name << ": " << result.status.message();
    }
  }
  EXPECT_TRUE(result.defects.empty());
}

TEST(Kernels, TheUnforcedChoiceIsTheFirstThatIsSupportedAndNotTheReference) {
  Context context;
  Plan chosen;
  expect_ok(plan(context, Shape(), &chosen));
  for (const KernelInfo& kernel : kernels()) {
    if (!kernel.supported) continue;
    EXPECT_EQ(chosen.kernel, kernel.name);
    break;
  }
  EXPECT_NE(chosen.backend, "reference");
}

INSTANTIATE_TEST_SUITE_P(Operators, Robustness,
                         testing::Values(Operator::kChunk, Operator::kRecurrent),
                         [](const auto& p) { return verify::name_of(p.param); });

// Sums of g past what float32 has an exponential for: a state of zeros, and tokens that write
// nothing, stay zeros.
TEST(Robustness, DecaysThatOverflowLeaveZerosZero) {
  constexpr int64_t T = 20, K = 8, V = 8, kLast = T - 1;
  for_each_kernel([](Context& context) {
    std::vector<float> q(T * K, 0.25f), k(T * K, 0.25f), v(T * V), g(T, 6.0f), beta(T, 1.0f);
    std::fill_n(&v[kLast * V], V, 1.0f);
    std::vector<float> out(T * V, std::nanf("")), state(V * K, std::nanf(""));
    ChunkArgs args(StateLayout::kVK);
    args.q = {q.data(), {1, T, 1, K}};
    args.k = {k.data(), {1, T, 1, K}};
    args.v = {v.data(), {1, T, 1, V}};
    args.out = {out.data(), {1, T, 1, V}};
    args.g = {g.data(), {1, T, 1}};
    args.beta = {beta.data(), {1, T, 1}};
    args.final_state = {state.data(), {1, 1, V, K}};
    args.scale = 1.0;
    const Status status = chunk(context, args);
    ASSERT_TRUE(status.ok()) << status.message();
    for (int64_t i = 0; i < T * V; ++i) EXPECT_EQ(out[i], i < kLast * V ? 0.0f : 0.5f) << i;
    for (float s : state) EXPECT_EQ(s, 0.25f);
  });
}

}  // namespace
}  // namespace gdn::tests
