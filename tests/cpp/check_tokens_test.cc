// What chunk(), recurrent() and replay_verify() share: tokens, gates, sequences, options.
#include <cmath>
#include <limits>

#include "check_support.h"

namespace gdn {
namespace {

template <class Call>
class CheckTokens : public ::testing::Test {};
using Calls = ::testing::Types<ChunkCall, RecurrentCall, ReplayVerifyCall>;
TYPED_TEST_SUITE(CheckTokens, Calls);

TYPED_TEST(CheckTokens, BaseCallsPass) {
  using Call = TypeParam;
  Call call;
  const auto problem = expect_ok(call);
  EXPECT_EQ(problem.shape.op, Operator<decltype(call.args)>::op);
  EXPECT_EQ(problem.shape.device, DeviceType::kCPU);
  EXPECT_EQ(problem.shape.sequences, 2);
  EXPECT_EQ(problem.shape.tokens, 6);
  EXPECT_EQ(problem.shape.max_length, 3);
  EXPECT_EQ(problem.shape.heads, kH);
  EXPECT_EQ(problem.shape.value_heads, kHV);
  EXPECT_EQ(problem.shape.K, kK);
  EXPECT_EQ(problem.shape.V, kV);
  EXPECT_EQ(problem.shape.dtype, DType::kBF16);
  EXPECT_EQ(problem.shape.state_dtype, DType::kF32);
  EXPECT_EQ(problem.shape.layout, StateLayout::kVK);
  EXPECT_EQ(problem.shape.chunk_size, 64);
  EXPECT_EQ(problem.sequences.count, 2);
  EXPECT_EQ(problem.sequences.row_length, 3);
  EXPECT_EQ(problem.q.data, call.args.q.data);
  EXPECT_EQ(problem.out.data, call.args.out.data);
  EXPECT_EQ(problem.v.batch_stride, 3 * kHV * kV);
  EXPECT_EQ(problem.v.token_stride, kHV * kV);
  EXPECT_EQ(problem.v.head_stride, kV);
  EXPECT_EQ(problem.gates.g.data, call.args.g.data);
  EXPECT_EQ(problem.gates.beta.dtype, DType::kBF16);
  EXPECT_FALSE(problem.gates.a.given());
  EXPECT_EQ(problem.scale, static_cast<float>(1.0 / std::sqrt(8.0)));
  EXPECT_EQ(problem.l2norm_eps, 1e-6f);
}

TYPED_TEST(CheckTokens, Legal) {
  using Call = TypeParam;
  expect_legal<Call>({
      {"gates computed", [](Call& c) { c.compute_gates(); }},
      {"no dt_bias, no beta",
       [](Call& c) {
         c.compute_gates();
         c.args.dt_bias = c.args.b = {};
       }},
      {"beta with a",
       [](Call& c) {
         const TensorView beta = c.args.beta;
         c.compute_gates();
         c.args.b = {};
         c.args.beta = beta;
       }},
      {"float32 gates beside bfloat16 tokens",
       [](Call& c) {
         c.compute_gates();
         c.args.a = c.memory.input(DType::kF32, {2, 3, kHV});
         c.args.b = c.memory.input(DType::kF32, {2, 3, kHV});
         c.args.A_log = c.memory.input(DType::kF16, {kHV});
       }},
      {"the same q and k", [](Call& c) { c.args.k = c.args.q; }},
      {"inputs broadcast over tokens, backwards over heads",
       [](Call& c) {
         c.args.g = c.args.g.with_strides({0, 0, 1});
         c.args.q = c.args.q.with_strides({0, 0, -kK, 1});
         c.args.q.data = static_cast<std::byte*>(c.args.q.data) + (kH - 1) * kK * 2;
       }},
      {"scale 0", [](Call& c) { c.args.scale = 0.0; }},
      {"l2norm_eps 0", [](Call& c) { c.args.l2norm_eps = 0.0; }},
      {"softplus never linear",
       [](Call& c) { c.args.softplus_threshold = std::numeric_limits<float>::infinity(); }},
      {"one buffer with q, k, v and out side by side",
       [](Call& c) {
         constexpr int64_t width = 2 * kH * kK + 2 * kHV * kV + 5;
         const TensorView fused = c.memory.input(DType::kBF16, {2, 4, width});
         auto* data = static_cast<uint16_t*>(fused.data);
         const auto slice = [&](TensorView& view, int64_t column, int64_t head) {
           view.data = data + column;
           view = view.with_strides({4 * width, width, head, 1});
         };
         slice(c.args.q, 0, kK);
         slice(c.args.k, kH * kK, kK);
         slice(c.args.v, 2 * kH * kK, kV);
         slice(c.args.out, 2 * kH * kK + kHV * kV + 5, kV);
       }},
  });
}

TYPED_TEST(CheckTokens, Shapes) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) { c.args.q = {}; }, "q is absent, expected a tensor [B,T,H,K]"},
      {[](Call& c) { c.args.k = {}; }, "k is absent, expected a tensor [2,3,2,8]"},
      {[](Call& c) { c.args.v = {}; }, "v is absent, expected a tensor [2,3,HV,V]"},
      {[](Call& c) { c.args.out = {}; }, "out is absent, expected a tensor [2,3,4,16]"},
      {[](Call& c) { c.args.q.rank = 3; }, "q has shape [2,3,2], expected [B,T,H,K]"},
      {[](Call& c) {
         c.args.q = TensorView(c.args.q.data, DType::kBF16, {1, 1, 1, 1, 1, 1, 1});
       },
       "q has shape of more than 6 axes, expected [B,T,H,K]"},
      {[](Call& c) { c.args.q.shape[1] = -3; },
       "q has shape [2,-3,2,8], expected no negative extent"},
      {[](Call& c) { c.args.q.shape[1] = int64_t{1} << 50; },
       "q has shape [2,1125899906842624,2,8], expected at most 2^48 elements"},
      {[](Call& c) { c.args.q.shape[0] = c.args.q.shape[1] = int64_t{1} << 62; },
       "q has shape [4611686018427387904,4611686018427387904,2,8], "
       "expected at most 2^48 elements"},
      {[](Call& c) { c.args.k.shape[3] = 4; }, "k has shape [2,3,2,4], expected [2,3,2,8]"},
      {[](Call& c) { c.args.v.shape[1] = 2; }, "v has shape [2,2,4,16], expected [2,3,HV,V]"},
      {[](Call& c) { c.args.out.shape[2] = 2; }, "out has shape [2,3,2,16], expected [2,3,4,16]"},
      {[](Call& c) { c.args.g.shape[2] = 2; }, "g has shape [2,3,2], expected [2,3,4]"},
      {[](Call& c) { c.args.beta.shape[2] = 2; }, "beta has shape [2,3,2], expected [2,3,4]"},
      {[](Call& c) {
         c.compute_gates();
         c.args.a.shape[2] = 1;
       },
       "a has shape [2,3,1], expected [2,3,4]"},
      {[](Call& c) {
         c.compute_gates();
         c.args.b.rank = 2;
       },
       "b has shape [2,3], expected [2,3,4]"},
      {[](Call& c) {
         c.compute_gates();
         c.args.A_log.shape[0] = 2;
       },
       "A_log has shape [2], expected [4]"},
      {[](Call& c) {
         c.compute_gates();
         c.args.dt_bias.shape[0] = 3;
       },
       "dt_bias has shape [3], expected [4]"},
  });
}

TYPED_TEST(CheckTokens, Dims) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) { c.args.q.shape[2] = c.args.k.shape[2] = 0; },
       "q has H = 0, expected at least 1"},
      {[](Call& c) { c.args.v.shape[2] = c.args.out.shape[2] = 3; },
       "v has HV = 3, expected a positive multiple of H = 2"},
      {[](Call& c) { c.args.v.shape[2] = c.args.out.shape[2] = 0; },
       "v has HV = 0, expected a positive multiple of H = 2"},
      {[](Call& c) { c.args.q.shape[3] = c.args.k.shape[3] = 0; },
       "q has K = 0, expected 1 to 256"},
      {[](Call& c) { c.args.v.shape[3] = c.args.out.shape[3] = 0; },
       "v has V = 0, expected 1 to 256"},
      {[](Call& c) {
         c.args.q = c.args.k = c.memory.input(DType::kBF16, {2, 3, kH, 257});
       },
       "q has K = 257, expected 1 to 256", StatusCode::kUnsupported},
      {[](Call& c) {
         c.args.v = c.memory.input(DType::kBF16, {2, 3, kHV, 257});
         c.args.out = c.memory.output(DType::kBF16, {2, 3, kHV, 257});
       },
       "v has V = 257, expected 1 to 256", StatusCode::kUnsupported},
  });
}

TYPED_TEST(CheckTokens, DTypes) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) { c.args.q.dtype = DType::kI32; },
       "q has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.q.dtype = static_cast<DType>(77); },
       "q has dtype ?, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.k.dtype = DType::kF16; },
       "k has dtype float16, expected bfloat16, the dtype of q"},
      {[](Call& c) {
         c.args.v = c.memory.input(DType::kF32, {2, 3, kHV, kV});
       },
       "v has dtype float32, expected bfloat16, the dtype of q"},
      {[](Call& c) {
         c.args.out = c.memory.output(DType::kF32, {2, 3, kHV, kV});
       },
       "out has dtype float32, expected bfloat16, the dtype of q"},
      {[](Call& c) { c.args.g.dtype = DType::kBF16; }, "g has dtype bfloat16, expected float32"},
      {[](Call& c) { c.args.beta.dtype = DType::kF16; },
       "beta has dtype float16, expected float32 or bfloat16"},
      {[](Call& c) {
         c.compute_gates();
         c.args.a.dtype = DType::kF16;
       },
       "a has dtype float16, expected float32 or bfloat16"},
      {[](Call& c) {
         c.compute_gates();
         c.args.b.dtype = DType::kBool;
       },
       "b has dtype bool, expected float32 or bfloat16"},
      {[](Call& c) {
         c.compute_gates();
         c.args.A_log.dtype = DType::kI64;
       },
       "A_log has dtype int64, expected float32, bfloat16 or float16"},
      {[](Call& c) {
         c.compute_gates();
         c.args.dt_bias.dtype = DType::kI32;
       },
       "dt_bias has dtype int32, expected float32, bfloat16 or float16"},
  });
}

TYPED_TEST(CheckTokens, DevicesPointersAndStrides) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) { c.args.beta.device = DeviceType::kCUDA; },
       "beta is on CUDA, expected CPU, where q is"},
      {[](Call& c) { c.args.q.device = DeviceType::kCUDA; },
       "k is on CPU, expected CUDA, where q is"},
      {[](Call& c) { c.args.v.data = nullptr; },
       "v has a null pointer, expected the data of shape [2,3,4,16]"},
      {[](Call& c) { c.args.q.data = static_cast<std::byte*>(c.args.q.data) + 1; },
       "q is misaligned, expected a multiple of 2 bytes, the size of bfloat16"},
      {[](Call& c) { c.args.g.data = static_cast<std::byte*>(c.args.g.data) + 2; },
       "g is misaligned, expected a multiple of 4 bytes, the size of float32"},
      {[](Call& c) {
         c.args.k = c.args.k.with_strides({48, 16, 1, 2});
       },
       "k has strides [48,16,1,2] for shape [2,3,2,8], expected a contiguous last axis"},
      {[](Call& c) { c.args.q.strides[1] = INT64_MAX; },
       "q has strides [48,9223372036854775807,8,1] for shape [2,3,2,8], "
       "expected memory that fits in an address space"},
      {[](Call& c) {
         c.args.out = c.args.out.with_strides({192, 0, 16, 1});
       },
       "out has strides [192,0,16,1] for shape [2,3,4,16], expected elements that do not overlap"},
      {[](Call& c) {
         c.args.out = c.args.out.with_strides({192, 63, 16, 1});
       },
       "out has strides [192,63,16,1] for shape [2,3,4,16], expected elements that do not overlap"},
  });
}

TYPED_TEST(CheckTokens, Overlaps) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) { c.args.out.data = c.args.v.data; },
       "out overlaps v, expected memory of its own"},
      {[](Call& c) {  // the last element of one is the first of the other
         const TensorView both = c.memory.input(DType::kBF16, {2 * 2 * 3 * kHV * kV});
         c.args.v.data = both.data;
         c.args.out.data = static_cast<uint16_t*>(both.data) + 2 * 3 * kHV * kV - 1;
       },
       "out overlaps v, expected memory of its own"},
      {[](Call& c) {
         c.args.g = c.memory.input(DType::kF32, {2, 3, kHV * kV});
         c.args.out.data = c.args.g.data;
         c.args.g.shape[2] = kHV;
       },
       "out overlaps g, expected memory of its own"},
      {[](Call& c) {  // slices of one buffer that meet in one column
         constexpr int64_t width = 2 * kHV * kV;
         const TensorView fused = c.memory.input(DType::kBF16, {2, 3, width});
         for (TensorView* view : {&c.args.v, &c.args.out}) {
           *view = view->with_strides({3 * width, width, kV, 1});
           view->data = fused.data;
         }
         c.args.out.data = static_cast<uint16_t*>(fused.data) + kHV * kV - 1;
       },
       "out overlaps v, expected memory of its own"},
  });
}

TYPED_TEST(CheckTokens, Gates) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) { c.args.g = {}; }, "g is absent, expected g, or A_log and a"},
      {[](Call& c) {
         c.compute_gates();
         c.args.g = c.memory.input(DType::kF32, {2, 3, kHV});
       },
       "A_log is given, expected g or A_log and a, not both"},
      {[](Call& c) { c.args.a = c.args.beta; }, "a is given, expected g or A_log and a, not both"},
      {[](Call& c) { c.args.dt_bias = c.memory.input(DType::kF32, {kHV}); },
       "dt_bias is given, expected it only with a"},
      {[](Call& c) {
         c.compute_gates();
         c.args.A_log = {};
       },
       "A_log is absent, expected it with a"},
      {[](Call& c) {
         c.compute_gates();
         c.args.a = {};
       },
       "a is absent, expected it with A_log"},
      {[](Call& c) { c.args.b = c.args.beta; }, "b is given, expected beta or b, not both"},
  });
}

TYPED_TEST(CheckTokens, Options) {
  using Call = TypeParam;
  expect_errors<Call>({
      {[](Call& c) { c.args.scale = std::nan(""); }, "scale is nan, expected a finite float32"},
      {[](Call& c) { c.args.scale = -std::numeric_limits<double>::infinity(); },
       "scale is -inf, expected a finite float32"},
      {[](Call& c) { c.args.scale = 1e39; }, "scale is 1e+39, expected a finite float32"},
      {[](Call& c) { c.args.l2norm_eps = -1e-6; },
       "l2norm_eps is -1e-06, expected a finite float32 of at least 0"},
      {[](Call& c) { c.args.l2norm_eps = std::nan(""); },
       "l2norm_eps is nan, expected a finite float32 of at least 0"},
      {[](Call& c) { c.args.softplus_beta = 0.0f; },
       "softplus_beta is 0, expected a finite float32 above 0"},
      {[](Call& c) { c.args.softplus_beta = std::numeric_limits<float>::infinity(); },
       "softplus_beta is inf, expected a finite float32 above 0"},
      {[](Call& c) { c.args.softplus_threshold = std::nanf(""); },
       "softplus_threshold is nan, expected a number"},
      {[](Call& c) { c.args.state_layout = static_cast<StateLayout>(9); },
       "state_layout is 9, expected kVK or kKV"},
  });
}

TYPED_TEST(CheckTokens, CuSeqlens) {
  using Call = TypeParam;
  constexpr StatusCode kOutOfRange = StatusCode::kOutOfRange;
  expect_errors<Call>({
      {[](Call& c) {
         c.args.cu_seqlens = c.memory.i32({0, 3});
       },
       "cu_seqlens is given with B = 2, expected B = 1"},
      {[](Call& c) {
         c.tokens(1, 6);
         c.args.cu_seqlens = c.memory.i32({});
       },
       "cu_seqlens has shape [0], expected at least one element"},
      {[](Call& c) {
         c.tokens(1, 6);
         c.args.cu_seqlens = c.memory.values(DType::kI32, {1, 3}, {0, 3, 6});
       },
       "cu_seqlens has shape [1,3], expected [N+1]"},
      {[](Call& c) {
         c.tokens(1, 6);
         c.args.cu_seqlens = c.memory.input(DType::kF32, {3});
       },
       "cu_seqlens has dtype float32, expected int32 or int64"},
      {[](Call& c) {
         c.tokens(1, 6);
         c.args.cu_seqlens = c.memory.i32({1, 3, 6});
       },
       "cu_seqlens[0] is 1, expected 0", kOutOfRange},
      {[](Call& c) {
         c.tokens(1, 6);
         c.args.cu_seqlens = c.memory.i64({0, 4, 3});
       },
       "cu_seqlens[2] is 3, expected at least 4, the element before it", kOutOfRange},
      {[](Call& c) {
         c.tokens(1, 6);
         c.args.cu_seqlens = c.memory.i64({0, -1, 3});
       },
       "cu_seqlens[1] is -1, expected at least 0, the element before it", kOutOfRange},
      {[](Call& c) {
         c.tokens(1, 6);
         c.args.cu_seqlens = c.memory.i32({0, 3, 7});
       },
       "cu_seqlens[2] is 7, expected at most T = 6", kOutOfRange},
  });
}

}  // namespace
}  // namespace gdn
