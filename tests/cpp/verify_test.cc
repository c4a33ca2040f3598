// The comparison finds what is wrong: a backend that does what the reference does and then spoils
// one thing. A program of its own, since a backend stays installed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <functional>
#include <string>

#include "backend.h"
#include "half.h"
#include "verify/case.h"
#include "verify/run.h"
#include "verify/tolerance.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::Result;

std::function<void(const DeltaRuleProblem&)> sabotage;  // after the call

std::span<const KernelInfo> list_saboteur() {
  static const KernelInfo list[] = {{"saboteur", "saboteur", "the reference, spoiled", true}};
  return list;
}
Status plan_saboteur(const Shape& shape, const PlanRequest& request, Plan* plan) {
  Status status = reference_backend().plan(shape, request, plan);
  plan->kernel = "saboteur";
  return status;
}
Status run_saboteur(const Call& call, const DeltaRuleProblem& problem) {
  Status status = reference_backend().recurrent(call, problem);
  if (sabotage) sabotage(problem);
  return status;
}

const Backend& saboteur() {
  static const Backend backend = [] {
    Backend b = reference_backend();
    b.name = "saboteur";
    b.kernels = &list_saboteur;
    b.plan = &plan_saboteur;
    b.recurrent = &run_saboteur;
    return b;
  }();
  return backend;
}

class Verify : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(install(&saboteur()));
    sabotage = nullptr;
    c_.op = verify::Operator::kRecurrent;
    c_.lengths = {5, 3, 4};
    c_.H = 1;
    c_.HV = 2;
    c_.K = 64;
    c_.V = 64;
    c_.indices = verify::Indices::kPool32;
    c_.strides = verify::Strides::kPadded;
    c_.tail = 2;
  }
  Result run() {
    Context context;
    context.kernel = "saboteur";
    return verify::run(context, c_);
  }
  // That the result is wrong, and says so by this word.
  void expect_found(const std::string& word) {
    const Result result = run();
    EXPECT_FALSE(result.ok());
    const std::string text = verify::describe(result, c_, Context());
    EXPECT_NE(text.find(word), std::string::npos) << text;
  }

  Case c_;
};

std::byte* first_out(const DeltaRuleProblem& p) { return p.out.at(p.sequences.at(0), 0, 0); }

void change(std::byte* at, DType dtype, double factor) {
  store_float(at, dtype, static_cast<float>(load_float(at, dtype) * factor));
}
void change_outputs(const DeltaRuleProblem& p, double factor) {
  for (int64_t n = 0; n < p.sequences.count; ++n) {
    const Sequence s = p.sequences.at(n);
    for (int64_t t = 0; t < s.length; ++t) {
      for (int64_t i = 0; i < p.shape.V; ++i) {
        change(p.out.at(s, t, 0) + i * size_of(p.out.dtype), p.out.dtype, factor);
      }
    }
  }
}

TEST_F(Verify, FindsNothingWrongWhereNothingIs) {
  const Result result = run();
  EXPECT_TRUE(result.ok()) << verify::describe(result, c_, Context());
  EXPECT_EQ(result.comparisons.size(), 2u);
}

TEST_F(Verify, AcceptsTheRoundingOfFloat32AndNoMore) {
  sabotage = [](const auto& p) { change_outputs(p, 1 + 5e-7); };
  EXPECT_TRUE(run().ok());
  sabotage = [](const auto& p) { change_outputs(p, 1 + 3e-6); };
  expect_found("TOO LARGE");
}

TEST_F(Verify, AcceptsOneRoundingToSixteenBitsAndNoSecondOne) {
  c_.dtype = DType::kBF16;
  EXPECT_TRUE(run().ok());
  sabotage = [](const auto& p) { change_outputs(p, 1 + 1.0 / 256); };
  expect_found("TOO LARGE");
}

TEST_F(Verify, FindsOneWrongElementOfAState) {
  sabotage = [](const auto& p) { change(p.final_slot(1) + 40, p.final_state.dtype, 1.1); };
  expect_found("final_state");
}

TEST_F(Verify, FindsAnElementThatWasNotWritten) {
  sabotage = [](const auto& p) { std::fill_n(first_out(p) + 8, 4, std::byte{0xff}); };
  expect_found("out: 1 elements were not written");
}

TEST_F(Verify, FindsATailThatIsNotZero) {
  sabotage = [](const auto& p) { *p.out.at(p.sequences.tail(), 1, 1) = std::byte{1}; };
  expect_found("zero in the reference and not here");
}

TEST_F(Verify, FindsASkippedRowThatIsNotZero) {
  c_.padding = verify::Padding::kNegative;
  c_.seed = 3;  // sequence 0
  EXPECT_TRUE(run().ok());
  sabotage = [](const auto& p) { *first_out(p) = std::byte{1}; };
  expect_found("zero in the reference and not here");
}

TEST_F(Verify, FindsASlotThatTheCallDoesNotName) {
  sabotage = [](const auto& p) {
    for (int64_t slot = 0; slot < p.final_state.slots; ++slot) {
      bool named = false;
      for (int64_t n = 0; n < p.sequences.count; ++n) {
        named = named || p.final_slot(n) == p.final_state.at(slot);
      }
      if (!named) *p.final_state.at(slot, 3) = std::byte{0};
    }
  };
  expect_found("elements changed that the call does not name");
}

TEST_F(Verify, FindsAByteWrittenInAGapOrPastTheEnd) {
  sabotage = [](const auto& p) { first_out(p)[p.shape.V * 4] = std::byte{0}; };
  expect_found("bytes between or around the elements changed");
  sabotage = [](const auto& p) { first_out(p)[-1] = std::byte{0}; };
  expect_found("bytes between or around the elements changed");
  c_.strides = verify::Strides::kContiguous;
  sabotage = [](const auto& p) {
    *(p.out.at(p.sequences.tail(), 1, 1) + p.shape.V * 4) = std::byte{0};
  };
  expect_found("bytes between or around the elements changed");
}

TEST_F(Verify, FindsAnInputThatWasWritten) {
  sabotage = [](const auto& p) { *p.k.at(p.sequences.at(0), 0, 0) = std::byte{0x12}; };
  expect_found("inputs: were written");
}

TEST_F(Verify, FindsNaN) {
  sabotage = [](const auto& p) { store_float(first_out(p), p.out.dtype, std::nanf("")); };
  expect_found("TOO LARGE");
}

TEST_F(Verify, FindsStatesInEachOthersSlots) {
  sabotage = [](const auto& p) {
    std::swap_ranges(p.final_slot(0), p.final_slot(0) + 64, p.final_slot(1));
  };
  expect_found("TOO LARGE");
}

TEST(Tolerance, AZeroReferenceDemandsZero) {
  for (Compute compute : {Compute::kF32, Compute::kBF16}) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      EXPECT_EQ(verify::error_bound({.dtype = dtype, .compute = compute, .hard = true}), 0);
    }
  }
}

TEST(CaseLine, SaysWhatItDoesNotUnderstand) {
  Case c;
  for (const char* line :
       {"op=chunks", "colour=red", "K", "K=4x", "lengths=3,,4", "K=0", "HV=3 H=2",
        "padding=negative", "checkpoint_every=5", "packing=rows lengths=1,2"}) {
    const Status status = verify::parse(line, &c);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << line;
    EXPECT_NE(status.message().find("case: "), std::string::npos) << status.message();
  }
  ASSERT_TRUE(verify::parse("T=5 N=2 seed=9", &c).ok());
  EXPECT_EQ(c.lengths, (std::vector<int64_t>{5, 5}));
  EXPECT_EQ(verify::to_string(c), "op=chunk lengths=5,5 seed=9");
}

}  // namespace
}  // namespace gdn::tests
