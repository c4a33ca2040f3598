// Calls that are right, to be spoiled one rule at a time: the table of a check test has a change
// and the whole message it must give.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "check/check.h"
#include "gdn/gdn.h"
#include "half.h"

namespace gdn {

// The tensors of a call.
class Memory {
 public:
  // Seeded random numbers.
  TensorView input(DType dtype, std::initializer_list<int64_t> extents) {
    const TensorView view = allocate(dtype, extents);
    std::normal_distribution<float> normal;
    auto* bytes = static_cast<std::byte*>(view.data);
    for (int64_t i = 0; i < view.size(); ++i) {
      store_float(bytes + i * size_of(dtype), dtype, normal(random_));
    }
    return view;
  }
  // NaN.
  TensorView output(DType dtype, std::initializer_list<int64_t> extents) {
    return allocate(dtype, extents);
  }
  TensorView values(DType dtype, std::initializer_list<int64_t> extents,
                    std::initializer_list<int> items) {
    TensorView view = allocate(dtype, extents);
    EXPECT_EQ(view.size(), static_cast<int64_t>(items.size()));
    auto* bytes = static_cast<std::byte*>(view.data);
    for (int item : items) {
      if (dtype == DType::kI64) {
        const int64_t value = item;
        std::memcpy(bytes, &value, sizeof value);
      } else if (dtype == DType::kI32) {
        const int32_t value = item;
        std::memcpy(bytes, &value, sizeof value);
      } else {
        *bytes = static_cast<std::byte>(item);
      }
      bytes += size_of(dtype);
    }
    return view;
  }
  TensorView i32(std::initializer_list<int> items) {
    return values(DType::kI32, {static_cast<int64_t>(items.size())}, items);
  }
  TensorView i64(std::initializer_list<int> items) {
    return values(DType::kI64, {static_cast<int64_t>(items.size())}, items);
  }
  TensorView bools(std::initializer_list<int> items) {
    return values(DType::kBool, {static_cast<int64_t>(items.size())}, items);
  }

  std::deque<std::vector<std::byte>> snapshot() const { return blocks_; }

 private:
  TensorView allocate(DType dtype, std::initializer_list<int64_t> extents) {
    TensorView view(nullptr, dtype, extents);
    // One byte more, so that a tensor without elements has an address too.
    blocks_.emplace_back(static_cast<size_t>(view.size() * size_of(dtype) + 1), std::byte{0xff});
    view.data = blocks_.back().data();
    return view;
  }

  std::deque<std::vector<std::byte>> blocks_;  // allocated bytes never move
  std::mt19937 random_{20240601};
};

template <class Args>
struct Operator;
#define GDN_OPERATOR(ArgsType, ProblemType, function, id)                       \
  template <>                                                                   \
  struct Operator<ArgsType> {                                                   \
    using Problem = ProblemType;                                                \
    static constexpr Op op = Op::id;                                            \
    static Status run(Context& c, const ArgsType& a) { return function(c, a); } \
  };
GDN_OPERATOR(ChunkArgs, DeltaRuleProblem, chunk, kChunk)
GDN_OPERATOR(RecurrentArgs, DeltaRuleProblem, recurrent, kRecurrent)
GDN_OPERATOR(ReplayVerifyArgs, ReplayProblem, replay_verify, kReplayVerify)
GDN_OPERATOR(ReplayCommitArgs, ReplayProblem, replay_commit, kReplayCommit)
GDN_OPERATOR(GatingArgs, GatingProblem, gating, kGating)
GDN_OPERATOR(L2normArgs, L2normProblem, l2norm, kL2norm)
GDN_OPERATOR(SolveTrilArgs, SolveTrilProblem, solve_tril, kSolveTril)
GDN_OPERATOR(RmsNormGatedArgs, RmsNormGatedProblem, rms_norm_gated, kRmsNormGated)
GDN_OPERATOR(CausalConv1dArgs, CausalConv1dProblem, causal_conv1d, kCausalConv1d)
#undef GDN_OPERATOR

// A call is a struct of `memory` and `args` that is right when it is made.
template <class Call>
struct ErrorCase {
  void (*change)(Call&);
  const char* message;  // after "gdn.<op>: "
  StatusCode code = StatusCode::kInvalidArgument;
};

template <class Call>
void expect_error(Call& call, StatusCode code, const char* message) {
  using Args = decltype(call.args);
  const std::string whole = std::string(name_of(Operator<Args>::op)) + ": " + message;
  const auto before = call.memory.snapshot();
  Context context;
  const Status status = Operator<Args>::run(context, call.args);
  EXPECT_EQ(status.message(), whole);
  EXPECT_EQ(status.code(), code) << whole;
  EXPECT_EQ(call.memory.snapshot(), before) << "something was written; " << whole;
}

template <class Call>
void expect_errors(std::initializer_list<ErrorCase<Call>> cases) {
  for (const ErrorCase<Call>& item : cases) {
    Call call;
    item.change(call);
    expect_error(call, item.code, item.message);
  }
}

template <class Call>
auto expect_ok(Call& call) {
  using Args = decltype(call.args);
  typename Operator<Args>::Problem problem;
  const Status status = check(call.args, &problem);
  EXPECT_TRUE(status.ok()) << status.message();
  return problem;
}

template <class Call>
struct LegalCase {
  const char* what;
  void (*change)(Call&);
};

template <class Call>
void expect_legal(std::initializer_list<LegalCase<Call>> cases) {
  for (const LegalCase<Call>& item : cases) {
    SCOPED_TRACE(item.what);
    Call call;
    item.change(call);
    expect_ok(call);
  }
}

// The dims of every delta-rule call here. K != V, so that the layouts differ.
constexpr int64_t kH = 2, kHV = 4, kK = 8, kV = 16;

// Two sequences of three tokens; g and beta given.
template <class ArgsType>
struct TokenCall {
  Memory memory;
  ArgsType args{StateLayout::kVK};

  TokenCall() { tokens(2, 3); }

  void tokens(int64_t B, int64_t T) {
    args.q = memory.input(DType::kBF16, {B, T, kH, kK});
    args.k = memory.input(DType::kBF16, {B, T, kH, kK});
    args.v = memory.input(DType::kBF16, {B, T, kHV, kV});
    args.out = memory.output(DType::kBF16, {B, T, kHV, kV});
    args.g = memory.input(DType::kF32, {B, T, kHV});
    args.beta = memory.input(DType::kBF16, {B, T, kHV});
  }
  // a and b in place of g and beta.
  void compute_gates() {
    const int64_t B = args.q.shape[0], T = args.q.shape[1];
    args.g = args.beta = {};
    args.A_log = memory.input(DType::kF32, {kHV});
    args.a = memory.input(DType::kBF16, {B, T, kHV});
    args.dt_bias = memory.input(DType::kBF16, {kHV});
    args.b = memory.input(DType::kBF16, {B, T, kHV});
  }
  void all_on_cuda() {
    for (TensorView* view : {&args.q, &args.k, &args.v, &args.out, &args.g, &args.beta}) {
      view->device = DeviceType::kCUDA;
    }
  }
};

// With states, read and written apart.
template <class ArgsType>
struct DeltaRuleCall : TokenCall<ArgsType> {
  using TokenCall<ArgsType>::memory;
  using TokenCall<ArgsType>::args;

  DeltaRuleCall() { states(2); }

  TensorView state_in(int64_t slots) { return memory.input(DType::kF32, {slots, kHV, kV, kK}); }
  TensorView state_out(int64_t slots) { return memory.output(DType::kF32, {slots, kHV, kV, kK}); }
  void states(int64_t slots) {
    args.initial_state = state_in(slots);
    args.final_state = state_out(slots);
  }
  // Three sequences of 2, 0 and 4 tokens, then one row of no sequence.
  void pack() {
    this->tokens(1, 7);
    args.cu_seqlens = memory.i32({0, 2, 2, 6});
    states(3);
  }
  // Four sequences of one token, with a pool of ten slots updated in place.
  void pool() {
    this->tokens(4, 1);
    args.initial_state = args.final_state = state_in(10);
    args.initial_state_indices = memory.i32({7, 3, 5, 9});
    args.final_state_indices = args.initial_state_indices;
  }
  // Two sequences of three tokens; a state stored per token in a pool of twelve.
  void speculative() {
    this->tokens(2, 3);
    args.initial_state = args.final_state = state_in(12);
    args.initial_state_indices = args.final_state_indices =
        memory.values(DType::kI32, {2, 4}, {0, 1, 2, 3, 4, 5, 6, 7});
    args.num_accepted = memory.i32({1, 4});
  }
  void all_on_cuda() {
    TokenCall<ArgsType>::all_on_cuda();
    for (TensorView* view : {&args.initial_state, &args.final_state, &args.initial_state_indices,
                             &args.final_state_indices, &args.cu_seqlens, &args.num_accepted,
                             &args.has_initial_state}) {
      view->device = DeviceType::kCUDA;
    }
  }
};
using ChunkCall = DeltaRuleCall<ChunkArgs>;
using RecurrentCall = DeltaRuleCall<RecurrentArgs>;

// Two sequences of three tokens, slots 4 and 1 of a pool of five with three records each.
template <class ArgsType, class Base>
struct ReplayCall : Base {
  using Base::args;
  using Base::memory;

  ReplayCall() { records(5, 3); }

  void records(int64_t slots, int64_t M) {
    args.state = memory.input(DType::kF32, {slots, kHV, kV, kK});
    args.state_indices = memory.i32({4, 1});
    args.num_accepted = memory.i32({0, 3});
    args.record_k = memory.input(DType::kF32, {slots, M, kH, kK});
    args.record_v = memory.input(DType::kF32, {slots, M, kHV, kV});
    args.record_g = memory.input(DType::kF32, {slots, M, kHV});
  }
};
struct CommitBase {
  Memory memory;
  ReplayCommitArgs args{StateLayout::kVK};
};
using ReplayVerifyCall = ReplayCall<ReplayVerifyArgs, TokenCall<ReplayVerifyArgs>>;
using ReplayCommitCall = ReplayCall<ReplayCommitArgs, CommitBase>;

}  // namespace gdn
