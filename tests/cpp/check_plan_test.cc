// What plan() says of a shape that no argument struct stands behind, and of a context.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "gdn/gdn.h"

namespace gdn {
namespace {

struct Wrong {
  void (*change)(Shape&);
  std::string message;
};

TEST(CheckPlan, EveryMistakeInAShapeHasItsMessage) {
  for (const Wrong& wrong : std::vector<Wrong>{
           {[](Shape& s) { s.sequences = -1; }, "gdn.chunk: sequences is -1, expected at least 0"},
           {[](Shape& s) { s.tokens = -1; }, "gdn.chunk: tokens is -1, expected at least 0"},
           {[](Shape& s) { s.max_length = -1; },
            "gdn.chunk: max_length is -1, expected at least 0"},
           {[](Shape& s) { s.heads = 0; }, "gdn.chunk: heads is 0, expected at least 1"},
           {[](Shape& s) { s.value_heads = 0; },
            "gdn.chunk: value_heads is 0, expected at least 1"},
           {[](Shape& s) { s.heads = 2, s.value_heads = 3; },
            "gdn.chunk: value_heads is 3, expected a multiple of heads = 2"},
           {[](Shape& s) { s.K = 0; }, "gdn.chunk: K is 0, expected at least 1"},
           {[](Shape& s) { s.V = 0; }, "gdn.chunk: V is 0, expected at least 1"},
           {[](Shape& s) { s.V = 257; }, "gdn.chunk: shape has V = 257, expected 1 to 256"},
           {[](Shape& s) { s.chunk_size = 0; }, "gdn.chunk: chunk_size is 0, expected at least 1"},
           {[](Shape& s) { s.compute = static_cast<Compute>(9); },
            "gdn.chunk: compute is 9, expected kAuto, kF32 or kBF16"},
           {[](Shape& s) { s.context_split = static_cast<ContextSplit>(3); },
            "gdn.chunk: context_split is 3, expected kAuto, kFixed or kOff"},
           {[](Shape& s) { s.op = Op::kSolveTril, s.K = 257; },
            "gdn.solve_tril: shape has n = 257, expected 1 to 256"},
           {[](Shape& s) { s.op = Op::kCausalConv1d, s.state_length = -1; },
            "gdn.causal_conv1d: state_length is -1, expected at least 0"},
           {[](Shape& s) { s.op = static_cast<Op>(99); }, "gdn.plan: op is 99, expected an Op"}}) {
    Shape shape;
    wrong.change(shape);
    Plan planned;
    EXPECT_EQ(plan(Context{}, shape, &planned).message(), wrong.message);
  }
}

TEST(CheckPlan, EveryOperatorHasAPlanForItsDefaultShape) {
  for (int op = 0; op <= static_cast<int>(Op::kCausalConv1d); ++op) {
    Shape shape;
    shape.op = static_cast<Op>(op);
    Plan planned;
    const Status status = plan(Context{}, shape, &planned);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(planned.op, shape.op);
  }
}

TEST(CheckPlan, WithoutANameTheFirstSupportedKernelIsTakenAndNoneThatIsEmulated) {
  Plan planned;
  ASSERT_TRUE(plan(Context{}, Shape{}, &planned).ok());
  for (const KernelInfo& kernel : kernels()) {
    if (!kernel.supported) continue;
    EXPECT_EQ(planned.kernel, kernel.name);
    EXPECT_EQ(std::string(kernel.description).find("emulated"), std::string::npos);
    break;
  }
}

struct Workers : Executor {
  explicit Workers(int count) : workers(count) {}
  int max_workers() const override { return workers; }
  void run(int64_t, Task, void*) override {}
  int workers;
};

// A part repeats what its heads share, so that there are as many as end first.
TEST(CheckPlan, FewHeadsAreSplitAsFarAsItPays) {
  Shape shape;
  shape.sequences = 1;
  shape.tokens = shape.max_length = 8192;
  shape.heads = 2;
  shape.value_heads = 8;
  shape.K = shape.V = 128;
  const auto parts_on = [&](int count) {
    Workers workers(count);
    Plan planned;
    EXPECT_TRUE(plan(Context{.executor = &workers}, shape, &planned).ok());
    // A task is a part, or some whole heads.
    const int64_t parts = shape.sequences * shape.heads * planned.parts;
    EXPECT_EQ(parts % planned.tasks, 0);
    if (planned.parts > 1) {
      EXPECT_EQ(planned.tasks, parts);
    }
    return planned.parts;
  };
  EXPECT_EQ(parts_on(1), 1);
  // Two units of the sixteen of a group each: a part a unit would take two rounds.
  EXPECT_EQ(parts_on(16), 8);
  shape.heads = 16;
  shape.value_heads = 32;
  EXPECT_EQ(parts_on(2), 1);
}

// Whole heads of a sequence each, as many as leave every worker its tasks and end no later than
// single heads.
TEST(CheckPlan, ADecodeTaskTakesSeveralHeadsWhereNobodyWaitsForIt) {
  for (int64_t sequences : {0, 1, 3, 64}) {
    for (int64_t heads : {1, 3, 6, 16, 64}) {
      for (int count : {1, 2, 3, 12, 1000}) {
        SCOPED_TRACE(testing::Message() << sequences << ", " << heads << ", " << count);
        Workers workers(count);
        Shape shape;
        shape.sequences = shape.tokens = sequences;
        shape.max_length = 1;
        shape.heads = shape.value_heads = heads;
        const auto planned = [&](Op op) {
          shape.op = op;
          Plan plan;
          EXPECT_TRUE(gdn::plan(Context{.executor = &workers}, shape, &plan).ok());
          return plan;
        };
        const int64_t all = sequences * heads;
        EXPECT_EQ(planned(Op::kReplayVerify).tasks, all);
        const Plan decode = planned(Op::kRecurrent);
        shape.tokens = 2 * sequences;
        shape.max_length = 2;
        const Plan longer = planned(Op::kRecurrent);
        EXPECT_EQ(longer.parts, decode.parts);
        EXPECT_EQ(longer.tasks, all * longer.parts);
        if (all == 0 || decode.parts > 1) {
          EXPECT_EQ(decode.tasks, all * decode.parts);
          continue;
        }
        ASSERT_GT(decode.tasks, 0);
        ASSERT_EQ(all % decode.tasks, 0);
        const int64_t together = all / decode.tasks;
        EXPECT_EQ(heads % together, 0);
        if (count > 1) {
          EXPECT_GE(decode.tasks, std::min<int64_t>(all, 4 * count));
        }
        const auto rounds = [&](int64_t tasks) { return (tasks + count - 1) / count; };
        EXPECT_LE(together * rounds(decode.tasks), rounds(all));
        if (heads == 16 && count <= 2) {
          const bool many = count == 1 || sequences == 64;
          EXPECT_EQ(together, many ? 8 : sequences > 1 ? 4 : 2);
        }
      }
    }
  }
}

TEST(CheckPlan, NowhereToPutThePlan) {
  const Status status = plan(Context{}, Shape{}, nullptr);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "gdn.chunk: plan is a null pointer, expected where to put the plan");
  EXPECT_EQ(plan(Context{}, GatingArgs{}, nullptr).message(),
            "gdn.gating: plan is a null pointer, expected where to put the plan");
}

TEST(CheckPlan, AnExecutorWithoutWorkersIsRefused) {
  struct Nobody : Executor {
    int max_workers() const override { return 0; }
    void run(int64_t, Task, void*) override {}
  } nobody;
  Plan planned;
  const Status status = plan(Context{.executor = &nobody}, Shape{}, &planned);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "gdn.chunk: executor has 0 workers, expected at least 1");
}

}  // namespace
}  // namespace gdn
