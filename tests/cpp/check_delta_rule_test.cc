// States, slots and checkpoints of chunk() and recurrent().
#include <algorithm>
#include <numeric>
#include <random>

#include "check_support.h"

namespace gdn {
namespace {

constexpr StatusCode kOutOfRange = StatusCode::kOutOfRange;

template <class Call>
class CheckDeltaRule : public ::testing::Test {};
using Calls = ::testing::Types<ChunkCall, RecurrentCall>;
TYPED_TEST_SUITE(CheckDeltaRule, Calls);

TYPED_TEST(CheckDeltaRule, PackedCallsPass) {
  TypeParam call;
  call.pack();
  call.args.compute = Compute::kBF16;
  const DeltaRuleProblem problem = expect_ok(call);
  EXPECT_EQ(problem.shape.sequences, 3);
  EXPECT_EQ(problem.shape.tokens, 6);
  EXPECT_EQ(problem.shape.max_length, 4);
  EXPECT_EQ(problem.shape.compute, Compute::kBF16);
  EXPECT_EQ(problem.sequences.at(2).begin, 2);
  EXPECT_EQ(problem.sequences.at(2).length, 4);
  EXPECT_EQ(problem.sequences.tail().begin, 6);
  EXPECT_EQ(problem.sequences.tail().length, 1);
  EXPECT_EQ(problem.initial(2).data, problem.initial_state.data + 2 * kHV * kV * kK * 4);
}

TYPED_TEST(CheckDeltaRule, SpeculativeCallsPass) {
  TypeParam call;
  call.speculative();
  call.args.null_slot = 5;
  const DeltaRuleProblem problem = expect_ok(call);
  EXPECT_TRUE(problem.stores_every_state());
  EXPECT_EQ(problem.initial(0).data, problem.initial_state.at(0));
  EXPECT_EQ(problem.initial(1).data, problem.initial_state.at(7));
  EXPECT_EQ(problem.final_slot(1, 0), problem.final_state.at(4));
  EXPECT_EQ(problem.final_slot(1, 1), nullptr);
}

TYPED_TEST(CheckDeltaRule, StateDtypeIsThatOfTheFinalStateFirst) {
  TypeParam call;
  call.args.final_state = call.memory.output(DType::kF16, {2, kHV, kV, kK});
  EXPECT_EQ(expect_ok(call).shape.state_dtype, DType::kF16);
  call.args.final_state = {};
  call.args.initial_state = call.memory.input(DType::kBF16, {2, kHV, kV, kK});
  EXPECT_EQ(expect_ok(call).shape.state_dtype, DType::kBF16);
  call.args.initial_state = {};
  EXPECT_EQ(expect_ok(call).shape.state_dtype, DType::kF32);
}

TYPED_TEST(CheckDeltaRule, Legal) {
  using Call = TypeParam;
  expect_legal<Call>({
      {"a pool", [](Call& c) { c.pool(); }},
      {"no states", [](Call& c) { c.args.initial_state = c.args.final_state = {}; }},
      {"in place", [](Call& c) { c.args.final_state = c.args.initial_state; }},
      {"layout [K,V]",
       [](Call& c) {
         c.args.state_layout = StateLayout::kKV;
         c.args.initial_state = c.memory.input(DType::kF32, {2, kHV, kK, kV});
         c.args.final_state = c.memory.output(DType::kF32, {2, kHV, kK, kV});
       }},
      {"no tokens, null pointers",
       [](Call& c) {
         c.tokens(2, 0);
         c.args.q.data = c.args.k.data = c.args.v.data = c.args.out.data = nullptr;
         c.args.g.data = c.args.beta.data = nullptr;
       }},
      {"no sequences",
       [](Call& c) {
         c.pack();
         c.states(0);
         c.args.cu_seqlens = c.memory.i32({0});
         c.args.initial_state.data = c.args.final_state.data = nullptr;
         c.args.has_initial_state = c.memory.bools({});
       }},
      {"an empty pool, all of it padding",
       [](Call& c) {
         c.pool();
         c.states(0);
         c.args.initial_state_indices = c.args.final_state_indices = c.memory.i32({-1, -1, -1, -1});
       }},
      {"slots apart, backwards",
       [](Call& c) {
         constexpr int64_t slot = kHV * kV * kK;
         for (TensorView* state : {&c.args.initial_state, &c.args.final_state}) {
           const TensorView wide = c.memory.output(DType::kF32, {2, slot + 3});
           state->data = static_cast<float*>(wide.data) + slot + 3;
           state->strides[0] = -(slot + 3);
         }
       }},
      {"the states of two tensors interleaved in one buffer",
       [](Call& c) {
         constexpr int64_t slot = kHV * kV * kK;
         const TensorView wide = c.memory.input(DType::kF32, {2, 2 * slot});
         c.args.initial_state.data = wide.data;
         c.args.final_state.data = static_cast<float*>(wide.data) + slot;
         c.args.initial_state.strides[0] = c.args.final_state.strides[0] = 2 * slot;
       }},
      {"one slot, whatever its stride",
       [](Call& c) {
         c.tokens(1, 3);
         c.states(1);
         c.args.final_state.strides[0] = 0;
         c.args.initial_state.strides[0] = 12345;
       }},
      {"a broadcast initial state", [](Call& c) { c.args.initial_state.strides[0] = 0; }},
      {"padding by sign and by null_slot, twice",
       [](Call& c) {
         c.pool();
         c.args.initial_state_indices = c.memory.i64({0, 3, -7, 0});
         c.args.final_state_indices = c.memory.i32({1, 0, 1, -2});
         c.args.null_slot = 0;
       }},
      {"a null slot past the pool",
       [](Call& c) {
         c.pool();
         c.args.initial_state_indices = c.args.final_state_indices = c.memory.i32({7, 99, 99, 1});
         c.args.null_slot = 99;
       }},
      {"a slot that two sequences read and none writes",
       [](Call& c) {
         c.pool();
         c.args.initial_state_indices = c.memory.i32({7, 7, 7, 9});
         c.args.final_state_indices = c.memory.i32({0, 1, 2, 9});
       }},
      {"a slot that a sequence from zero does not read",
       [](Call& c) {
         c.pool();
         c.args.initial_state_indices = c.memory.i32({7, 7, 5, 9});
         c.args.final_state_indices = c.memory.i32({7, 3, 5, 9});
         c.args.has_initial_state = c.memory.bools({1, 0, 1, 1});
       }},
      {"slots written by a skipped sequence do not count",
       [](Call& c) {
         c.pool();
         c.args.initial_state_indices = c.memory.i32({7, -1, 5, 9});
         c.args.final_state_indices = c.memory.i32({7, 7, 5, 9});
       }},
      {"read and write tables in two tensors",
       [](Call& c) {
         c.pool();
         c.args.final_state = c.state_out(4);
         c.args.final_state_indices = {};
       }},
      {"sequences of which all start from zero",
       [](Call& c) {
         c.pool();
         c.args.initial_state = c.args.initial_state_indices = {};
       }},
      {"strided indices",
       [](Call& c) {
         c.pool();
         c.args.initial_state_indices =
             c.memory.values(DType::kI64, {4, 2}, {7, 7, 3, 3, 5, 5, 9, 9});
         c.args.initial_state_indices.rank = 1;
         c.args.final_state_indices = c.args.initial_state_indices;
       }},
      {"speculative", [](Call& c) { c.speculative(); }},
      {"columns past a length are ignored",
       [](Call& c) {
         c.speculative();
         c.args.final_state_indices =
             c.memory.values(DType::kI32, {2, 4}, {0, 1, 2, 99, 4, 5, 6, 0});
       }},
      {"columns that num_accepted does not choose are ignored",
       [](Call& c) {
         c.speculative();
         c.args.initial_state_indices =
             c.memory.values(DType::kI32, {2, 4}, {0, 99, 99, 99, 99, 99, 99, 7});
       }},
      {"no columns and no tokens",
       [](Call& c) {
         c.pool();
         c.tokens(4, 0);
         c.args.final_state_indices = c.memory.values(DType::kI32, {4, 0}, {});
       }},
  });
}

TYPED_TEST(CheckDeltaRule, NoColumnsStoreNoState) {
  TypeParam call;
  call.pool();
  call.tokens(4, 0);
  call.args.final_state_indices = call.memory.values(DType::kI32, {4, 0}, {});
  EXPECT_FALSE(expect_ok(call).final_state.given());
}

TYPED_TEST(CheckDeltaRule, TensorsWithoutElementsCountAsGiven) {
  TypeParam call;
  call.tokens(2, 0);
  call.args.g.data = call.args.beta.data = nullptr;
  const DeltaRuleProblem problem = expect_ok(call);
  EXPECT_TRUE(problem.gates.g.given());
  EXPECT_TRUE(problem.gates.beta.given());
  EXPECT_FALSE(problem.gates.b.given());
}

TYPED_TEST(CheckDeltaRule, OptionsAndStates) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) { c.args.compute = static_cast<Compute>(3); },
       "compute is 3, expected kAuto, kF32 or kBF16"},
      {[](Call& c) { c.args.initial_state = c.state_in(3); },
       "initial_state has 3 slots for 2 sequences, expected as many, or initial_state_indices"},
      {[](Call& c) { c.args.final_state = c.state_in(1); },
       "final_state has shape [1,4,16,8], expected [2,4,16,8]"},
      {[](Call& c) { c.args.state_layout = StateLayout::kKV; },
       "initial_state has shape [2,4,16,8], expected [2,4,8,16]"},
      {[](Call& c) {
         c.pool();
         c.args.initial_state.rank = 3;
       },
       "initial_state has shape [10,4,16], expected [slots,4,16,8]"},
      {[](Call& c) { c.args.initial_state.dtype = DType::kI32; },
       "initial_state has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.final_state.dtype = DType::kBool; },
       "final_state has dtype bool, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.initial_state.strides[2] = 9; },
       "initial_state has strides [512,128,9,1] for shape [2,4,16,8], "
       "expected axes after the first to be contiguous"},
      {[](Call& c) { c.args.final_state.strides[0] = 500; },
       "final_state has strides [500,128,8,1] for shape [2,4,16,8], "
       "expected elements that do not overlap"},
      {[](Call& c) { c.args.final_state.strides[0] = 0; },
       "final_state has strides [0,128,8,1] for shape [2,4,16,8], "
       "expected elements that do not overlap"},
      {[](Call& c) { c.args.initial_state.data = nullptr; },
       "initial_state has a null pointer, expected the data of shape [2,4,16,8]"},
      {[](Call& c) { c.args.final_state.device = DeviceType::kCUDA; },
       "final_state is on CUDA, expected CPU, where q is"},
      {[](Call& c) {
         c.args.final_state = c.args.initial_state;
         c.args.final_state.dtype = DType::kBF16;
       },
       "final_state overlaps initial_state, expected the same tensor or memory of its own"},
      {[](Call& c) {
         c.pool();
         c.args.final_state.shape[0] = 9;
       },
       "final_state overlaps initial_state, expected the same tensor or memory of its own"},
      {[](Call& c) {
         c.args.initial_state = c.args.final_state = c.state_in(2);
         c.args.q.data = c.args.initial_state.data;
       },
       "final_state overlaps q, expected memory of its own"},
      {[](Call& c) { c.args.g.data = c.args.final_state.data; },
       "final_state overlaps g, expected memory of its own"},
      {[](Call& c) {
         c.pool();
         c.args.out.data = c.args.final_state.data;
       },
       "final_state overlaps out, expected memory of its own"},
      {[](Call& c) {
         c.pool();
         c.args.initial_state_indices.data = c.args.out.data;
       },
       "out overlaps initial_state_indices, expected memory of its own"},
  });
}

TYPED_TEST(CheckDeltaRule, IndexTensors) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) {
         c.pool();
         c.args.initial_state = {};
       },
       "initial_state_indices is given, expected it only with initial_state"},
      {[](Call& c) {
         c.args.initial_state = {};
         c.args.has_initial_state = c.memory.bools({0, 1});
       },
       "has_initial_state is given, expected it only with initial_state"},
      {[](Call& c) {
         c.pool();
         c.args.final_state = {};
       },
       "final_state_indices is given, expected it only with final_state"},
      {[](Call& c) {
         c.args.num_accepted = c.memory.i32({1, 1});
       },
       "initial_state_indices is absent, expected it with num_accepted"},
      {[](Call& c) {
         c.speculative();
         c.args.num_accepted = {};
       },
       "num_accepted is absent, expected it with initial_state_indices of two axes"},
      {[](Call& c) {
         c.pool();
         c.args.num_accepted = c.memory.i32({1, 1, 1, 1});
       },
       "initial_state_indices has shape [4], expected [4,M]"},
      {[](Call& c) {
         c.speculative();
         c.args.initial_state_indices = c.memory.values(DType::kI32, {2, 0}, {});
       },
       "initial_state_indices has shape [2,0], expected at least one column"},
      {[](Call& c) {
         c.speculative();
         c.args.num_accepted = c.memory.i32({1, 1, 1});
       },
       "num_accepted has shape [3], expected [2]"},
      {[](Call& c) {
         c.speculative();
         c.args.num_accepted.dtype = DType::kF32;
       },
       "num_accepted has dtype float32, expected int32 or int64"},
      {[](Call& c) {
         c.pool();
         c.args.initial_state_indices.shape[0] = 3;
       },
       "initial_state_indices has shape [3], expected [4]"},
      {[](Call& c) {
         c.pool();
         c.args.initial_state_indices.dtype = DType::kF32;
       },
       "initial_state_indices has dtype float32, expected int32 or int64"},
      {[](Call& c) {
         c.pool();
         c.args.final_state_indices.shape[0] = 3;
       },
       "final_state_indices has shape [3], expected [4] or [4,M]"},
      {[](Call& c) {
         c.speculative();
         c.args.final_state_indices.rank = 0;
       },
       "final_state_indices has shape [], expected [2] or [2,M]"},
      {[](Call& c) {
         c.speculative();
         c.args.final_state_indices.shape[1] = 2;
       },
       "final_state_indices has shape [2,2], "
       "expected at least 3 columns, one a token of the longest sequence"},
      {[](Call& c) { c.args.has_initial_state = c.memory.bools({1}); },
       "has_initial_state has shape [1], expected [2]"},
      {[](Call& c) {
         c.args.has_initial_state = c.memory.i32({1, 1});
       },
       "has_initial_state has dtype int32, expected bool"},
      {[](Call& c) {
         c.pool();
         c.args.initial_state_indices.data = nullptr;
       },
       "initial_state_indices has a null pointer, expected the data of shape [4]"},
      {[](Call& c) {
         c.pool();
         c.args.final_state_indices.device = DeviceType::kCUDA;
       },
       "final_state_indices is on CUDA, expected CPU, where q is"},
  });
}

TYPED_TEST(CheckDeltaRule, IndexValues) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) {
         c.args.has_initial_state = c.memory.bools({1, 7});
       },
       "has_initial_state[1] is 7, expected 0 or 1", kOutOfRange},
      {[](Call& c) {
         c.pool();
         c.args.initial_state_indices = c.memory.i32({7, 3, 10, 9});
       },
       "initial_state_indices[2] is 10, expected less than 10, the slots of initial_state",
       kOutOfRange},
      {[](Call& c) {
         c.speculative();
         c.args.initial_state_indices =
             c.memory.values(DType::kI64, {2, 4}, {0, 1, 2, 3, 4, 5, 6, 12});
       },
       "initial_state_indices[1,3] is 12, expected less than 12, the slots of initial_state",
       kOutOfRange},
      {[](Call& c) {
         c.pool();
         c.args.final_state_indices = c.memory.i64({7, 3, 5, 11});
       },
       "final_state_indices[3] is 11, expected less than 10, the slots of final_state",
       kOutOfRange},
      {[](Call& c) {
         c.speculative();
         c.args.final_state_indices =
             c.memory.values(DType::kI32, {2, 4}, {0, 1, 2, 3, 4, 5, 66, 7});
       },
       "final_state_indices[1,2] is 66, expected less than 12, the slots of final_state",
       kOutOfRange},
      {[](Call& c) {
         c.speculative();
         c.args.num_accepted = c.memory.i32({1, 0});
       },
       "num_accepted[1] is 0, expected 1 to 4", kOutOfRange},
      {[](Call& c) {
         c.speculative();
         c.args.num_accepted = c.memory.i64({5, 1});
       },
       "num_accepted[0] is 5, expected 1 to 4", kOutOfRange},
  });
}

TYPED_TEST(CheckDeltaRule, SlotConflicts) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) {
         c.pool();
         c.args.final_state_indices = c.memory.i32({7, 3, 5, 7});
       },
       "final_state_indices[3] is 7 as is final_state_indices[0], expected distinct slots",
       kOutOfRange},
      {[](Call& c) {  // in a tensor of its own as well
         c.pool();
         c.args.final_state = c.state_out(10);
         c.args.final_state_indices = c.memory.i32({1, 2, 2, 3});
       },
       "final_state_indices[2] is 2 as is final_state_indices[1], expected distinct slots",
       kOutOfRange},
      {[](Call& c) {
         c.speculative();
         c.args.final_state_indices =
             c.memory.values(DType::kI32, {2, 4}, {0, 1, 0, 3, 4, 5, 6, 7});
       },
       "final_state_indices[0,2] is 0 as is final_state_indices[0,0], expected distinct slots",
       kOutOfRange},
      {[](Call& c) {
         c.speculative();
         c.args.final_state_indices =
             c.memory.values(DType::kI32, {2, 4}, {0, 1, 2, 3, 4, 2, 6, 7});
       },
       "final_state_indices[1,1] is 2 as is final_state_indices[0,2], expected distinct slots",
       kOutOfRange},
      {[](Call& c) {  // sequence 1 reads what sequence 0 writes
         c.pool();
         c.args.final_state_indices = c.memory.i32({3, 1, 5, 9});
       },
       "final_state_indices[0] is 3, expected a slot that sequence 1 does not read", kOutOfRange},
      {[](Call& c) {
         c.speculative();
         c.args.final_state_indices =
             c.memory.values(DType::kI32, {2, 4}, {0, 1, 7, 3, 4, 5, 6, 7});
       },
       "final_state_indices[0,2] is 7, expected a slot that sequence 1 does not read", kOutOfRange},
      {[](Call& c) {  // without read indices sequence n reads slot n
         c.args.final_state = c.args.initial_state;
         c.args.final_state_indices = c.memory.i32({1, 0});
       },
       "final_state_indices[1] is 0, expected a slot that sequence 0 does not read", kOutOfRange},
      {[](Call& c) {  // without write indices sequence n writes slot n
         c.args.final_state = c.args.initial_state;
         c.args.initial_state_indices = c.memory.i32({0, 0});
       },
       "initial_state_indices[1] is 0, expected a slot that sequence 0 does not write",
       kOutOfRange},
  });
}

// More sequences than the stack has room for.
TYPED_TEST(CheckDeltaRule, ManySlots) {
  constexpr int64_t N = 1000;
  TypeParam call;
  call.tokens(N, 1);
  call.args.initial_state = call.args.final_state = call.state_in(N);
  std::vector<int64_t> slots(N);
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), std::mt19937(1));
  call.args.initial_state_indices = TensorView(slots.data(), {N});
  call.args.final_state_indices = call.args.initial_state_indices;
  expect_ok(call);

  std::vector<int64_t> moved = slots;
  std::swap(moved[17], moved[500]);
  call.args.final_state_indices = TensorView(moved.data(), {N});
  const std::string reads = "final_state_indices[500] is " + std::to_string(slots[17]) +
                            ", expected a slot that sequence 17 does not read";
  expect_error(call, kOutOfRange, reads.c_str());

  slots[900] = slots[3];
  call.args.final_state_indices = call.args.initial_state_indices;
  const std::string twice = "initial_state_indices[900] is " + std::to_string(slots[3]) +
                            " as is initial_state_indices[3], expected distinct slots";
  expect_error(call, kOutOfRange, twice.c_str());
}

// What lives on a device is not read here: these values would all be errors.
TYPED_TEST(CheckDeltaRule, ValuesOnADeviceAreNotRead) {
  TypeParam call;
  call.pack();
  call.args.cu_seqlens = TensorView(reinterpret_cast<int32_t*>(64), {4});
  call.args.initial_state = call.args.final_state;
  call.args.initial_state_indices = TensorView(reinterpret_cast<int32_t*>(64), {3});
  call.args.final_state_indices = TensorView(reinterpret_cast<int32_t*>(64), {3, 2});
  call.args.has_initial_state = TensorView(reinterpret_cast<bool*>(64), {3});
  call.all_on_cuda();
  const DeltaRuleProblem problem = expect_ok(call);
  EXPECT_EQ(problem.shape.device, DeviceType::kCUDA);
  EXPECT_EQ(problem.shape.sequences, 3);
  EXPECT_EQ(problem.shape.tokens, 7);
  EXPECT_EQ(problem.shape.max_length, 7);
}

TEST(CheckChunk, ChunkSize) {
  ChunkCall call;
  call.args.chunk_size = 16;
  EXPECT_EQ(expect_ok(call).shape.chunk_size, 16);
  expect_errors<ChunkCall>({
      {[](ChunkCall& c) { c.args.chunk_size = 0; }, "chunk_size is 0, expected at least 1"},
      {[](ChunkCall& c) { c.args.chunk_size = -64; }, "chunk_size is -64, expected at least 1"},
  });
}

TEST(CheckChunk, ContextSplit) {
  ChunkCall call;
  call.args.context_split = ContextSplit::kFixed;
  EXPECT_EQ(expect_ok(call).shape.context_split, ContextSplit::kFixed);
  expect_errors<ChunkCall>({
      {[](ChunkCall& c) { c.args.context_split = static_cast<ContextSplit>(7); },
       "context_split is 7, expected kAuto, kFixed or kOff"},
  });
}

// Sequences of 130, 0, 63 and 64 tokens; four rows for three checkpoints.
struct CheckpointCall : ChunkCall {
  CheckpointCall() {
    tokens(1, 257);
    states(4);
    args.cu_seqlens = memory.i32({0, 130, 130, 193, 257});
    args.checkpoint_every = 64;
    args.checkpoints = memory.output(DType::kBF16, {4, kHV, kV, kK});
    args.checkpoint_cu = memory.i64({0, 2, 2, 2, 3});
  }
};

TEST(CheckChunk, CheckpointsPass) {
  CheckpointCall call;
  const DeltaRuleProblem problem = expect_ok(call);
  EXPECT_EQ(problem.checkpoint_every, 64);
  EXPECT_EQ(problem.checkpoint(3, 0), problem.checkpoints.at(2));
  expect_legal<CheckpointCall>({
      {"rows to the last",
       [](CheckpointCall& c) {
         c.args.checkpoints = c.memory.output(DType::kF32, {3, kHV, kV, kK});
       }},
      {"none long enough",
       [](CheckpointCall& c) {
         c.args.checkpoint_every = 192;
         c.args.checkpoint_cu = c.memory.i64({0, 0, 0, 0, 0});
         c.args.checkpoints = c.memory.output(DType::kF32, {0, kHV, kV, kK});
         c.args.checkpoints.data = nullptr;
       }},
  });
}

TEST(CheckChunk, Checkpoints) {
  using Call = CheckpointCall;
  expect_errors<Call>({
      {[](Call& c) { c.args.checkpoint_every = -64; },
       "checkpoint_every is -64, expected 0 or a positive multiple of 64"},
      {[](Call& c) { c.args.checkpoint_every = 96; },
       "checkpoint_every is 96, expected 0 or a positive multiple of 64"},
      {[](Call& c) { c.args.checkpoint_every = 0; },
       "checkpoints is given, expected it only with checkpoint_every > 0"},
      {[](Call& c) {
         c.args.checkpoint_every = 0;
         c.args.checkpoints = {};
       },
       "checkpoint_cu is given, expected it only with checkpoint_every > 0"},
      {[](Call& c) { c.args.checkpoints = {}; },
       "checkpoints is absent, expected it with checkpoint_every > 0"},
      {[](Call& c) { c.args.checkpoint_cu = {}; },
       "checkpoint_cu is absent, expected it with checkpoint_every > 0"},
      {[](Call& c) { c.args.checkpoints.shape[1] = 2; },
       "checkpoints has shape [4,2,16,8], expected [M,4,16,8]"},
      {[](Call& c) { c.args.checkpoints.strides[0] = 0; },
       "checkpoints has strides [0,128,8,1] for shape [4,4,16,8], "
       "expected elements that do not overlap"},
      {[](Call& c) { c.args.checkpoints.dtype = DType::kI32; },
       "checkpoints has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.checkpoints.data = c.args.final_state.data; },
       "checkpoints overlaps final_state, expected memory of its own"},
      {[](Call& c) { c.args.checkpoints.data = c.args.initial_state.data; },
       "checkpoints overlaps initial_state, expected memory of its own"},
      {[](Call& c) { c.args.checkpoint_cu.shape[0] = 4; },
       "checkpoint_cu has shape [4], expected [5]"},
      {[](Call& c) { c.args.checkpoint_cu.dtype = DType::kF32; },
       "checkpoint_cu has dtype float32, expected int32 or int64"},
      {[](Call& c) {
         c.args.checkpoint_cu = c.memory.i32({1, 3, 3, 3, 4});
       },
       "checkpoint_cu[0] is 1, expected 0, the checkpoints of the sequences before", kOutOfRange},
      {[](Call& c) {
         c.args.checkpoint_cu = c.memory.i32({0, 2, 2, 3, 4});
       },
       "checkpoint_cu[3] is 3, expected 2, the checkpoints of the sequences before", kOutOfRange},
      {[](Call& c) { c.args.checkpoints.shape[0] = 2; },
       "checkpoints has M = 2, expected at least 3"},
  });
}

}  // namespace
}  // namespace gdn
