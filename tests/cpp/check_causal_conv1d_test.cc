// The checks of causal_conv1d(). The rules of slots are those of the delta rule and tested there;
// here, that they hold for the convolution too, and what is its own.
#include "check_support.h"

namespace gdn {
namespace {

constexpr int64_t kD = 6, kW = 4;

// Two sequences of three tokens, states read and written apart.
struct ConvCall {
  Memory memory;
  CausalConv1dArgs args;

  ConvCall() {
    args.weight = memory.input(DType::kF32, {kD, kW});
    args.bias = memory.input(DType::kF16, {kD});
    tokens(2, 3);
    states(2, kW - 1);
  }
  void tokens(int64_t B, int64_t T) {
    args.x = memory.input(DType::kBF16, {B, T, kD});
    args.y = memory.output(DType::kBF16, {B, T, kD});
  }
  void states(int64_t slots, int64_t S) {
    args.initial_state = memory.input(DType::kF32, {slots, kD, S});
    args.final_state = memory.output(DType::kBF16, {slots, kD, S});
  }
  // Three sequences of 2, 0 and 4 tokens, then one row of no sequence.
  void pack() {
    tokens(1, 7);
    args.cu_seqlens = memory.i32({0, 2, 2, 6});
    states(3, kW - 1);
  }
  // Four sequences of one token, with a pool of ten slots updated in place.
  void pool() {
    tokens(4, 1);
    args.initial_state = args.final_state = memory.input(DType::kF32, {10, kD, kW - 1});
    args.initial_state_indices = memory.i32({7, 3, 5, 9});
    args.final_state_indices = args.initial_state_indices;
  }
  // Two sequences of three tokens; a state stored per token in a pool of twelve.
  void columns() {
    args.initial_state = args.final_state = memory.input(DType::kF32, {12, kD, kW - 1});
    args.initial_state_indices = args.final_state_indices =
        memory.values(DType::kI32, {2, 4}, {0, 1, 2, 3, 4, 5, 6, 7});
    args.num_accepted = memory.i32({1, 4});
  }
  // Two sequences of three tokens, a slot each.
  void one_slot() {
    args.initial_state = args.final_state = memory.input(DType::kF32, {2, kD, kW + 1});
    args.num_accepted = memory.i32({1, 3});
  }
};

TEST(CheckCausalConv1d, Legal) {
  ConvCall call;
  CausalConv1dProblem problem = expect_ok(call);
  EXPECT_EQ(problem.shape.op, Op::kCausalConv1d);
  EXPECT_EQ(problem.shape.V, kD);
  EXPECT_EQ(problem.shape.K, kW);
  EXPECT_EQ(problem.shape.state_length, kW - 1);
  EXPECT_EQ(problem.shape.sequences, 2);
  EXPECT_EQ(problem.shape.tokens, 6);
  EXPECT_EQ(problem.shape.max_length, 3);
  EXPECT_EQ(problem.shape.state_dtype, DType::kBF16);
  EXPECT_EQ(problem.initial_state.channel_stride, kW - 1);
  EXPECT_EQ(problem.dropped(1, 3), 0);
  call.one_slot();
  problem = expect_ok(call);
  EXPECT_EQ(problem.dropped(0, 3), 2);
  EXPECT_EQ(problem.dropped(1, 3), 0);
  expect_legal<ConvCall>({
      {"neither bias nor states",
       [](ConvCall& c) { c.args.bias = c.args.initial_state = c.args.final_state = {}; }},
      {"packed", [](ConvCall& c) { c.pack(); }},
      {"a pool", [](ConvCall& c) { c.pool(); }},
      {"a state per token", [](ConvCall& c) { c.columns(); }},
      {"no columns",
       [](ConvCall& c) {
         c.args.final_state_indices = c.memory.output(DType::kI32, {2, 0});
         c.tokens(2, 0);
       }},
      {"states of any strides",
       [](ConvCall& c) {
         for (TensorView* view : {&c.args.initial_state, &c.args.final_state}) {
           *view = view->with_strides({kD * (kW - 1), 1, kD});
         }
       }},
      {"states that keep more", [](ConvCall& c) { c.states(2, 40); }},
      {"W 1 and states of nothing",
       [](ConvCall& c) {
         c.args.weight = c.memory.input(DType::kF32, {kD, 1});
         c.states(2, 0);
       }},
      {"a weight of any strides",
       [](ConvCall& c) {
         c.args.weight = c.args.weight.with_strides({1, kD});
       }},
      {"one slot, the number accepted unread where nothing else is",
       [](ConvCall& c) {
         c.pack();
         c.args.initial_state = c.args.final_state = c.memory.input(DType::kF32, {9, kD, kW + 2});
         c.args.initial_state_indices = c.args.final_state_indices = c.memory.i32({4, 2, -1});
         c.args.num_accepted = c.memory.i32({2, 99, -7});
         c.args.has_initial_state = c.memory.bools({1, 1, 1});
       }},
      {"one slot from zero",
       [](ConvCall& c) {
         c.one_slot();
         c.args.num_accepted = c.memory.i32({0, 1});
         c.args.has_initial_state = c.memory.bools({0, 1});
       }},
      {"one slot of a single token",
       [](ConvCall& c) {
         c.one_slot();
         c.tokens(2, 1);
         c.args.initial_state = c.args.final_state = c.memory.input(DType::kF32, {2, kD, kW - 1});
         c.args.num_accepted = c.memory.i32({1, 1});
       }},
  });
}

TEST(CheckCausalConv1d, TokensAndWeights) {
  expect_errors<ConvCall>({
      {[](ConvCall& c) { c.args.x = {}; }, "x is absent, expected a tensor [B,T,D]"},
      {[](ConvCall& c) { c.args.x.rank = 2; }, "x has shape [2,3], expected [B,T,D]"},
      {[](ConvCall& c) { c.args.x.dtype = DType::kBool; },
       "x has dtype bool, expected float32, bfloat16 or float16"},
      {[](ConvCall& c) { c.args.x.shape[2] = 0; }, "x has D = 0, expected at least 1"},
      {[](ConvCall& c) { c.args.x.strides[2] = 2; },
       "x has strides [18,6,2] for shape [2,3,6], expected a contiguous last axis"},
      {[](ConvCall& c) { c.args.weight = {}; }, "weight is absent, expected a tensor [6,W]"},
      {[](ConvCall& c) { c.args.weight.shape[0] = 5; }, "weight has shape [5,4], expected [6,W]"},
      {[](ConvCall& c) { c.args.weight.shape[1] = 0; }, "weight has W = 0, expected 1 to 8"},
      {[](ConvCall& c) {
         c.args.weight = c.memory.input(DType::kF32, {kD, 9});
       },
       "weight has W = 9, expected 1 to 8", StatusCode::kUnsupported},
      {[](ConvCall& c) { c.args.bias.shape[0] = 1; }, "bias has shape [1], expected [6]"},
      {[](ConvCall& c) { c.args.bias.dtype = DType::kI32; },
       "bias has dtype int32, expected float32, bfloat16 or float16"},
      {[](ConvCall& c) { c.args.y = {}; }, "y is absent, expected a tensor [2,3,6]"},
      {[](ConvCall& c) { c.args.y.dtype = DType::kF32; },
       "y has dtype float32, expected bfloat16, the dtype of x"},
      {[](ConvCall& c) { c.args.y.shape[1] = 2; }, "y has shape [2,2,6], expected [2,3,6]"},
      {[](ConvCall& c) { c.args.y.strides[1] = 5; },
       "y has strides [18,5,1] for shape [2,3,6], expected elements that do not overlap"},
      {[](ConvCall& c) { c.args.y = c.args.x; }, "y overlaps x, expected memory of its own"},
      {[](ConvCall& c) {
         c.args.cu_seqlens = c.memory.i32({0, 3});
       },
       "cu_seqlens is given with B = 2, expected B = 1"},
      {[](ConvCall& c) {
         c.pack();
         c.args.cu_seqlens = c.memory.i32({0, 2, 2, 8});
       },
       "cu_seqlens[3] is 8, expected at most T = 7", StatusCode::kOutOfRange},
      {[](ConvCall& c) { c.args.weight.device = DeviceType::kCUDA; },
       "weight is on CUDA, expected CPU, where x is"},
  });
}

TEST(CheckCausalConv1d, States) {
  expect_errors<ConvCall>({
      {[](ConvCall& c) {
         c.args.num_accepted = c.memory.i32({1, 1});
         c.args.initial_state_indices = c.memory.values(DType::kI32, {2, 0}, {});
       },
       "initial_state_indices has shape [2,0], expected at least one column"},
      {[](ConvCall& c) { c.args.initial_state.shape[1] = 5; },
       "initial_state has shape [2,5,3], expected [2,6,S]"},
      {[](ConvCall& c) { c.states(3, 3); },
       "initial_state has 3 slots for 2 sequences, expected as many, or initial_state_indices"},
      {[](ConvCall& c) { c.states(2, 2); }, "initial_state has S = 2, expected at least W - 1 = 3"},
      {[](ConvCall& c) {
         c.states(2, 2);
         c.args.initial_state = {};
       },
       "final_state has S = 2, expected at least W - 1 = 3"},
      {[](ConvCall& c) {
         c.args.final_state = c.memory.output(DType::kF32, {2, kD, 4});
       },
       "final_state has shape [2,6,4], expected [2,6,3]"},
      {[](ConvCall& c) { c.args.final_state.dtype = DType::kI32; },
       "final_state has dtype int32, expected float32, bfloat16 or float16"},
      {[](ConvCall& c) { c.args.final_state.strides[2] = 0; },
       "final_state has strides [18,3,0] for shape [2,6,3], expected elements that do not overlap"},
      {[](ConvCall& c) {
         c.args.final_state = c.args.initial_state;
         c.args.final_state.strides[1] = 1;
         c.args.final_state.strides[2] = 6;
       },
       "final_state overlaps initial_state, expected the same tensor or memory of its own"},
      {[](ConvCall& c) {
         c.args.y = c.args.x;
         c.args.y.data = c.args.initial_state.data;
       },
       "y overlaps initial_state, expected memory of its own"},
      {[](ConvCall& c) {
         c.pool();
         c.args.initial_state = {};
       },
       "initial_state_indices is given, expected it only with initial_state"},
      {[](ConvCall& c) {
         c.pool();
         c.args.final_state = {};
       },
       "final_state_indices is given, expected it only with final_state"},
      {[](ConvCall& c) {
         c.args.initial_state = {};
         c.args.has_initial_state = c.memory.bools({1, 1});
       },
       "has_initial_state is given, expected it only with initial_state"},
      {[](ConvCall& c) {
         c.args.initial_state = {};
         c.args.num_accepted = c.memory.i32({1, 1});
       },
       "initial_state is absent, expected it with num_accepted"},
      {[](ConvCall& c) {
         c.columns();
         c.args.num_accepted = {};
       },
       "num_accepted is absent, expected it with initial_state_indices of two axes"},
      {[](ConvCall& c) {
         c.columns();
         c.args.final_state_indices = c.memory.values(DType::kI32, {2, 2}, {0, 1, 2, 3});
       },
       "final_state_indices has shape [2,2], expected at least 3 columns, one a token of the "
       "longest sequence"},
      {[](ConvCall& c) {
         c.one_slot();
         c.args.final_state_indices = c.memory.values(DType::kI32, {2, 3}, {0, 1, 2, 3, 4, 5});
       },
       "final_state_indices has shape [2,3], expected one slot a sequence, as num_accepted without "
       "columns to choose from asks for"},
      {[](ConvCall& c) {
         c.one_slot();
         c.args.initial_state = c.args.final_state = c.memory.input(DType::kF32, {2, kD, kW});
       },
       "initial_state has S = 4, expected at least 5, W - 2 and the tokens of the longest "
       "sequence, "
       "with num_accepted"},
  });
}

TEST(CheckCausalConv1d, Slots) {
  expect_errors<ConvCall>({
      {[](ConvCall& c) {
         c.pool();
         c.args.initial_state_indices = c.memory.i32({7, 3, 10, 9});
       },
       "initial_state_indices[2] is 10, expected less than 10, the slots of initial_state",
       StatusCode::kOutOfRange},
      {[](ConvCall& c) {
         c.pool();
         c.args.final_state_indices = c.memory.i32({7, 3, 7, 9});
       },
       "final_state_indices[2] is 7 as is final_state_indices[0], expected distinct slots",
       StatusCode::kOutOfRange},
      {[](ConvCall& c) {
         c.pool();
         c.args.final_state_indices = c.memory.i32({3, 7, 5, 9});
       },
       "final_state_indices[1] is 7, expected a slot that sequence 0 does not read",
       StatusCode::kOutOfRange},
      {[](ConvCall& c) {
         c.columns();
         c.args.num_accepted = c.memory.i32({1, 5});
       },
       "num_accepted[1] is 5, expected 1 to 4", StatusCode::kOutOfRange},
      {[](ConvCall& c) {
         c.one_slot();
         c.args.num_accepted = c.memory.i32({1, 4});
       },
       "num_accepted[1] is 4, expected 1 to 3", StatusCode::kOutOfRange},
      {[](ConvCall& c) {
         c.one_slot();
         c.args.num_accepted = c.memory.i32({0, 1});
       },
       "num_accepted[0] is 0, expected 1 to 3", StatusCode::kOutOfRange},
      {[](ConvCall& c) {
         c.args.has_initial_state = c.memory.bools({1, 2});
       },
       "has_initial_state[1] is 2, expected 0 or 1", StatusCode::kOutOfRange},
  });
}

}  // namespace
}  // namespace gdn
