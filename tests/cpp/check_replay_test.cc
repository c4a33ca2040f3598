// The checks of replay_verify() and replay_commit() beyond what check_tokens_test.cc covers.
#include <type_traits>

#include "check_support.h"

namespace gdn {
namespace {

constexpr StatusCode kOutOfRange = StatusCode::kOutOfRange;

template <class Call>
class CheckReplay : public ::testing::Test {};
using Calls = ::testing::Types<ReplayVerifyCall, ReplayCommitCall>;
TYPED_TEST_SUITE(CheckReplay, Calls);

TYPED_TEST(CheckReplay, BaseCallsPass) {
  TypeParam call;
  call.args.null_slot = 1;
  const ReplayProblem problem = expect_ok(call);
  EXPECT_EQ(problem.shape.sequences, 2);
  EXPECT_EQ(problem.shape.heads, kH);
  EXPECT_EQ(problem.shape.value_heads, kHV);
  EXPECT_EQ(problem.shape.K, kK);
  EXPECT_EQ(problem.shape.V, kV);
  EXPECT_EQ(problem.shape.layout, StateLayout::kVK);
  EXPECT_EQ(problem.shape.state_dtype, DType::kF32);
  EXPECT_EQ(problem.sequences.count, 2);
  EXPECT_EQ(problem.record_tokens, 3);
  EXPECT_EQ(problem.slot(0), 4);
  EXPECT_EQ(problem.slot(1), -1);
  EXPECT_EQ(problem.record_v.slot_stride, 3 * kHV * kV);
}

TYPED_TEST(CheckReplay, Legal) {
  using Call = TypeParam;
  expect_legal<Call>({
      {"no indices",
       [](Call& c) {
         c.records(2, 3);
         c.args.state_indices = {};
       }},
      {"padding, whatever its num_accepted",
       [](Call& c) {
         c.args.state_indices = c.memory.i64({-3, -3});
         c.args.num_accepted = c.memory.i64({77, -1});
       }},
      {"16-bit state and records",
       [](Call& c) {
         c.args.state = c.memory.input(DType::kF16, {5, kHV, kV, kK});
         c.args.record_k = c.memory.input(DType::kBF16, {5, 3, kH, kK});
         c.args.record_v = c.memory.input(DType::kF16, {5, 3, kHV, kV});
       }},
      {"slots apart",
       [](Call& c) {
         const TensorView wide = c.memory.input(DType::kF32, {5, 3 * kHV + 1});
         c.args.record_g.data = wide.data;
         c.args.record_g.strides[0] = 3 * kHV + 1;
       }},
  });
}

TYPED_TEST(CheckReplay, StateRecordsAndIndices) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) { c.args.state = {}; }, "state is absent, expected a tensor [slots,4,16,8]"},
      {[](Call& c) { c.args.state_indices = {}; },
       "state has shape [5,4,16,8], expected [2,4,16,8]"},
      {[](Call& c) { c.args.state_layout = StateLayout::kKV; },
       "state has shape [5,4,16,8], expected [slots,4,8,16]"},
      {[](Call& c) { c.args.state_layout = static_cast<StateLayout>(2); },
       "state_layout is 2, expected kVK or kKV"},
      {[](Call& c) { c.args.state.strides[1] = 256; },
       "state has strides [512,256,8,1] for shape [5,4,16,8], "
       "expected axes after the first to be contiguous"},
      {[](Call& c) { c.args.state.strides[0] = 0; },
       "state has strides [0,128,8,1] for shape [5,4,16,8], expected elements that do not overlap"},
      {[](Call& c) { c.args.state.dtype = DType::kI32; },
       "state has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.record_k.shape[0] = 4; },
       "record_k has shape [4,3,2,8], expected [5,M,2,8]"},
      {[](Call& c) { c.args.record_v.shape[1] = 2; },
       "record_v has shape [5,2,4,16], expected [5,3,4,16]"},
      {[](Call& c) { c.args.record_g = {}; }, "record_g is absent, expected a tensor [5,3,4]"},
      {[](Call& c) { c.args.record_g.shape[2] = 2; },
       "record_g has shape [5,3,2], expected [5,3,4]"},
      {[](Call& c) { c.args.record_k.dtype = DType::kI32; },
       "record_k has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.record_v.dtype = DType::kI32; },
       "record_v has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.record_g.dtype = DType::kF16; },
       "record_g has dtype float16, expected float32"},
      {[](Call& c) { c.args.record_k.strides[1] = 17; },
       "record_k has strides [48,17,8,1] for shape [5,3,2,8], "
       "expected axes after the first to be contiguous"},
      {[](Call& c) {
         c.args.state_indices = c.memory.i32({4, 1, 0});
       },
       "state_indices has shape [3], expected [2]"},
      {[](Call& c) { c.args.state_indices = c.memory.input(DType::kF32, {2}); },
       "state_indices has dtype float32, expected int32 or int64"},
      {[](Call& c) { c.args.num_accepted.dtype = DType::kF32; },
       "num_accepted has dtype float32, expected int32 or int64"},
      {[](Call& c) { c.args.record_g.device = DeviceType::kCUDA; },
       std::is_same_v<Call, ReplayVerifyCall>
           ? "record_g is on CUDA, expected CPU, where q is"
           : "record_g is on CUDA, expected CPU, where state is"},
      {[](Call& c) { c.args.record_k.data = c.args.state.data; },
       std::is_same_v<Call, ReplayVerifyCall>
           ? "record_k overlaps state, expected memory of its own"
           : "state overlaps record_k, expected memory of its own"},
      {[](Call& c) { c.args.state_indices.data = c.args.state.data; },
       "state overlaps state_indices, expected memory of its own"},
  });
}

TYPED_TEST(CheckReplay, Values) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) {
         c.args.state_indices = c.memory.i32({4, 5});
       },
       "state_indices[1] is 5, expected less than 5, the slots of state", kOutOfRange},
      {[](Call& c) {
         c.args.state_indices = c.memory.i64({4, 4});
       },
       "state_indices[1] is 4 as is state_indices[0], expected distinct slots", kOutOfRange},
      {[](Call& c) {
         c.args.num_accepted = c.memory.i32({0, 4});
       },
       "num_accepted[1] is 4, expected 0 to 3", kOutOfRange},
      {[](Call& c) {
         c.args.num_accepted = c.memory.i64({-1, 0});
       },
       "num_accepted[0] is -1, expected 0 to 3", kOutOfRange},
  });
}

TEST(CheckReplayVerify, OnlyItsOwn) {
  using Call = ReplayVerifyCall;
  expect_errors<Call>({
      {[](Call& c) { c.args.num_accepted = {}; }, "num_accepted is absent, expected a tensor [2]"},
      {[](Call& c) { c.args.num_accepted = c.memory.i32({0}); },
       "num_accepted has shape [1], expected [2]"},
      {[](Call& c) { c.args.record_k = {}; }, "record_k is absent, expected a tensor [5,M,2,8]"},
      {[](Call& c) { c.records(5, 2); },
       "record_k has M = 2, expected at least 3, the tokens of the longest sequence"},
      {[](Call& c) { c.args.record_g.strides[0] = 0; },
       "record_g has strides [0,4,1] for shape [5,3,4], expected elements that do not overlap"},
      {[](Call& c) { c.args.v.data = c.args.record_v.data; },
       "record_v overlaps v, expected memory of its own"},
      {[](Call& c) { c.args.record_g.data = c.args.record_v.data; },
       "record_g overlaps record_v, expected memory of its own"},
      {[](Call& c) { c.args.out.data = c.args.state.data; },
       "state overlaps out, expected memory of its own"},
  });
}

TEST(CheckReplayVerify, ShortSequencesNeedFewRecords) {
  ReplayVerifyCall call;
  call.tokens(1, 7);
  call.args.cu_seqlens = call.memory.i32({0, 3, 6});
  EXPECT_EQ(expect_ok(call).shape.max_length, 3);
}

TEST(CheckReplayCommit, OnlyItsOwn) {
  using Call = ReplayCommitCall;
  ReplayCommitCall call;
  const ReplayProblem problem = expect_ok(call);
  EXPECT_EQ(problem.shape.op, Op::kReplayCommit);
  EXPECT_EQ(problem.shape.tokens, 0);
  EXPECT_FALSE(problem.q.given());
  expect_errors<Call>({
      {[](Call& c) { c.args.num_accepted = {}; }, "num_accepted is absent, expected a tensor [N]"},
      {[](Call& c) { c.args.record_k = {}; },
       "record_k is absent, expected a tensor [slots,M,H,K]"},
      {[](Call& c) { c.args.record_v.rank = 3; },
       "record_v has shape [5,3,4], expected [slots,M,HV,V]"},
      {[](Call& c) {
         c.args.num_accepted = c.memory.i32({0, 0, 0});
       },
       "state_indices has shape [2], expected [3]"},
      {[](Call& c) { c.args.record_k.shape[2] = 3; },
       "record_v has HV = 4, expected a positive multiple of H = 3"},
      {[](Call& c) { c.args.record_k.shape[2] = -1; }, "record_k has H = -1, expected at least 1"},
      {[](Call& c) { c.args.record_k.shape[3] = 0; }, "record_k has K = 0, expected 1 to 256"},
      {[](Call& c) { c.args.record_v.shape[3] = 257; }, "record_v has V = 257, expected 1 to 256",
       StatusCode::kUnsupported},
      {[](Call& c) {
         c.args.num_accepted.shape[0] = -1;
         c.args.state_indices = {};
       },
       "state has shape [5,4,16,8], expected [-1,4,16,8]"},
  });
}

}  // namespace
}  // namespace gdn
