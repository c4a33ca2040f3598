// The checks of gating(), l2norm(), rms_norm_gated() and solve_tril().
#include <cmath>

#include "check_support.h"

namespace gdn {
namespace {

struct GatingCall {
  Memory memory;
  GatingArgs args;

  GatingCall() {
    args.a = memory.input(DType::kBF16, {2, 3, kHV});
    args.A_log = memory.input(DType::kF32, {kHV});
    args.dt_bias = memory.input(DType::kF16, {kHV});
    args.b = memory.input(DType::kF16, {2, 3, kHV});
    args.g = memory.output(DType::kF32, {2, 3, kHV});
    args.beta = memory.output(DType::kBF16, {2, 3, kHV});
  }
};

TEST(CheckGating, Legal) {
  GatingCall call;
  const GatingProblem problem = expect_ok(call);
  EXPECT_EQ(problem.shape.op, Op::kGating);
  EXPECT_EQ(problem.shape.sequences, 2);
  EXPECT_EQ(problem.shape.max_length, 3);
  EXPECT_EQ(problem.shape.tokens, 6);
  EXPECT_EQ(problem.shape.value_heads, kHV);
  EXPECT_EQ(problem.gates.b.data, call.args.b.data);
  EXPECT_EQ(problem.beta.dtype, DType::kBF16);
  EXPECT_FALSE(problem.gates.g.given());
  using Call = GatingCall;
  expect_legal<Call>({
      {"g alone", [](Call& c) { c.args.b = c.args.beta = c.args.dt_bias = {}; }},
      {"heads first",
       [](Call& c) {
         c.args.a = c.args.a.with_strides({12, 1, 3});
         c.args.g = c.args.g.with_strides({12, 1, 3});
       }},
      {"no tokens",
       [](Call& c) {
         for (TensorView* view : {&c.args.a, &c.args.b, &c.args.g, &c.args.beta}) {
           view->shape[1] = 0;
           view->data = nullptr;
         }
       }},
  });
}

TEST(CheckGating, Errors) {
  using Call = GatingCall;
  expect_errors<Call>({
      {[](Call& c) { c.args.a = {}; }, "a is absent, expected a tensor [B,T,HV]"},
      {[](Call& c) { c.args.a.rank = 2; }, "a has shape [2,3], expected [B,T,HV]"},
      {[](Call& c) { c.args.A_log = {}; }, "A_log is absent, expected a tensor [4]"},
      {[](Call& c) { c.args.A_log.shape[0] = 2; }, "A_log has shape [2], expected [4]"},
      {[](Call& c) { c.args.dt_bias.dtype = DType::kI32; },
       "dt_bias has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.g = {}; }, "g is absent, expected a tensor [2,3,4]"},
      {[](Call& c) { c.args.g.dtype = DType::kBF16; }, "g has dtype bfloat16, expected float32"},
      {[](Call& c) { c.args.g.shape[1] = 2; }, "g has shape [2,2,4], expected [2,3,4]"},
      {[](Call& c) {
         c.args.g = c.args.g.with_strides({12, 4, 0});
       },
       "g has strides [12,4,0] for shape [2,3,4], expected elements that do not overlap"},
      {[](Call& c) { c.args.beta = {}; }, "beta is absent, expected it with b"},
      {[](Call& c) { c.args.b = {}; }, "beta is given, expected it only with b"},
      {[](Call& c) { c.args.b.shape[2] = 2; }, "b has shape [2,3,2], expected [2,3,4]"},
      {[](Call& c) { c.args.b.dtype = DType::kI64; },
       "b has dtype int64, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.beta.dtype = DType::kI32; },
       "beta has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.beta.data = c.args.b.data; },
       "beta overlaps b, expected memory of its own"},
      {[](Call& c) { c.args.beta.data = c.args.g.data; },
       "beta overlaps g, expected memory of its own"},
      {[](Call& c) { c.args.softplus_beta = -1.0f; },
       "softplus_beta is -1, expected a finite float32 above 0"},
      {[](Call& c) { c.args.softplus_threshold = std::nanf(""); },
       "softplus_threshold is nan, expected a number"},
      {[](Call& c) { c.args.g.device = DeviceType::kCUDA; },
       "g is on CUDA, expected CPU, where a is"},
  });
}

struct L2normCall {
  Memory memory;
  L2normArgs args;

  L2normCall() {
    args.x = memory.input(DType::kF32, {2, 3, 4, 8});
    args.y = memory.output(DType::kBF16, {2, 3, 4, 8});
  }
};

TEST(CheckL2norm, Legal) {
  L2normCall call;
  L2normProblem problem = expect_ok(call);
  EXPECT_EQ(problem.shape.op, Op::kL2norm);
  EXPECT_EQ(problem.shape.sequences, 24);
  EXPECT_EQ(problem.shape.K, 8);
  EXPECT_EQ(problem.extents[0], 2);
  EXPECT_EQ(problem.extents[2], 4);
  EXPECT_EQ(problem.x_strides[0], 96);
  EXPECT_EQ(problem.y_dtype, DType::kBF16);
  call.args.x = call.memory.input(DType::kF32, {5, 300});
  call.args.y = call.memory.output(DType::kF32, {5, 300});
  problem = expect_ok(call);
  EXPECT_EQ(problem.shape.sequences, 5);
  EXPECT_EQ(problem.extents[0], 1);
  EXPECT_EQ(problem.extents[2], 5);
  EXPECT_EQ(problem.x_strides[2], 300);
  using Call = L2normCall;
  expect_legal<Call>({
      {"one axis",
       [](Call& c) {
         c.args.x.rank = c.args.y.rank = 1;
         c.args.x.strides[0] = c.args.y.strides[0] = 1;
       }},
      {"no rows",
       [](Call& c) {
         c.args.x.shape[1] = c.args.y.shape[1] = 0;
         c.args.x.data = c.args.y.data = nullptr;
       }},
      {"a broadcast x", [](Call& c) { c.args.x.strides[1] = 0; }},
      {"eps 0", [](Call& c) { c.args.eps = 0; }},
  });
}

TEST(CheckL2norm, Errors) {
  using Call = L2normCall;
  expect_errors<Call>({
      {[](Call& c) { c.args.x = {}; }, "x is absent, expected a tensor [...,D] of 1 to 4 axes"},
      {[](Call& c) { c.args.x.rank = 0; }, "x has shape [], expected [...,D] of 1 to 4 axes"},
      {[](Call& c) {
         c.args.x = c.memory.input(DType::kF32, {1, 1, 1, 2, 2});
       },
       "x has shape [1,1,1,2,2], expected [...,D] of 1 to 4 axes"},
      {[](Call& c) { c.args.x.shape[0] = -2; },
       "x has shape [-2,3,4,8], expected no negative extent"},
      {[](Call& c) { c.args.x.dtype = DType::kI32; },
       "x has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.x.shape[3] = c.args.y.shape[3] = 0; },
       "x has D = 0, expected at least 1"},
      {[](Call& c) { c.args.x.strides[3] = 2; },
       "x has strides [96,32,8,2] for shape [2,3,4,8], expected a contiguous last axis"},
      {[](Call& c) { c.args.y = {}; }, "y is absent, expected a tensor [2,3,4,8]"},
      {[](Call& c) { c.args.y.shape[3] = 4; }, "y has shape [2,3,4,4], expected [2,3,4,8]"},
      {[](Call& c) { c.args.y.dtype = DType::kBool; },
       "y has dtype bool, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.y.strides[1] = 0; },
       "y has strides [96,0,8,1] for shape [2,3,4,8], expected elements that do not overlap"},
      {[](Call& c) { c.args.y = c.args.x; }, "y overlaps x, expected memory of its own"},
      {[](Call& c) { c.args.eps = -1; }, "eps is -1, expected a finite float32 of at least 0"},
      {[](Call& c) { c.args.eps = INFINITY; },
       "eps is inf, expected a finite float32 of at least 0"},
  });
}

struct RmsNormGatedCall {
  Memory memory;
  RmsNormGatedArgs args;

  RmsNormGatedCall() {
    args.x = memory.input(DType::kBF16, {2, 3, 4, 8});
    args.z = memory.input(DType::kBF16, {2, 3, 4, 8});
    args.weight = memory.input(DType::kF32, {8});
    args.y = memory.output(DType::kF16, {2, 3, 4, 8});
  }
};

TEST(CheckRmsNormGated, Legal) {
  RmsNormGatedCall call;
  const RmsNormGatedProblem problem = expect_ok(call);
  EXPECT_EQ(problem.shape.op, Op::kRmsNormGated);
  EXPECT_EQ(problem.shape.sequences, 24);
  EXPECT_EQ(problem.shape.K, 8);
  EXPECT_EQ(problem.extents[1], 3);
  EXPECT_EQ(problem.z_strides[0], 96);
  EXPECT_EQ(problem.dtype, DType::kBF16);
  EXPECT_EQ(problem.y_dtype, DType::kF16);
  using Call = RmsNormGatedCall;
  expect_legal<Call>({
      {"one row",
       [](Call& c) {
         for (TensorView* view : {&c.args.x, &c.args.z, &c.args.y}) {
           view->rank = 1;
           view->shape[0] = 8;
           view->strides[0] = 1;
         }
       }},
      {"no rows",
       [](Call& c) {
         for (TensorView* view : {&c.args.x, &c.args.z, &c.args.y}) {
           view->shape[1] = 0;
           view->data = nullptr;
         }
       }},
      {"x is z", [](Call& c) { c.args.z = c.args.x; }},
      {"a broadcast z", [](Call& c) { c.args.z.strides[1] = 0; }},
      {"a strided weight",
       [](Call& c) {
         c.args.weight = c.memory.input(DType::kF16, {16}).with_strides({2});
         c.args.weight.shape[0] = 8;
       }},
      {"eps 0", [](Call& c) { c.args.eps = 0; }},
  });
}

TEST(CheckRmsNormGated, Errors) {
  using Call = RmsNormGatedCall;
  expect_errors<Call>({
      {[](Call& c) { c.args.x = {}; }, "x is absent, expected a tensor [...,D] of 1 to 4 axes"},
      {[](Call& c) { c.args.x.dtype = DType::kI32; },
       "x has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.x.shape[3] = 0; }, "x has D = 0, expected at least 1"},
      {[](Call& c) { c.args.x.strides[3] = 2; },
       "x has strides [96,32,8,2] for shape [2,3,4,8], expected a contiguous last axis"},
      {[](Call& c) { c.args.z = {}; }, "z is absent, expected a tensor [2,3,4,8]"},
      {[](Call& c) { c.args.z.shape[2] = 3; }, "z has shape [2,3,3,8], expected [2,3,4,8]"},
      {[](Call& c) { c.args.z.dtype = DType::kF16; },
       "z has dtype float16, expected bfloat16, the dtype of x"},
      {[](Call& c) { c.args.weight = {}; }, "weight is absent, expected a tensor [8]"},
      {[](Call& c) { c.args.weight.shape[0] = 4; }, "weight has shape [4], expected [8]"},
      {[](Call& c) { c.args.weight.dtype = DType::kI64; },
       "weight has dtype int64, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.y.shape[0] = 1; }, "y has shape [1,3,4,8], expected [2,3,4,8]"},
      {[](Call& c) { c.args.y.strides[3] = 2; },
       "y has strides [96,32,8,2] for shape [2,3,4,8], expected a contiguous last axis"},
      {[](Call& c) { c.args.y = c.args.z; }, "y overlaps z, expected memory of its own"},
      {[](Call& c) { c.args.y.data = c.args.x.data; }, "y overlaps x, expected memory of its own"},
      {[](Call& c) { c.args.eps = std::nan(""); },
       "eps is nan, expected a finite float32 of at least 0"},
      {[](Call& c) { c.args.weight.device = DeviceType::kCUDA; },
       "weight is on CUDA, expected CPU, where x is"},
  });
}

struct SolveTrilCall {
  Memory memory;
  SolveTrilArgs args;

  SolveTrilCall() { matrices(DType::kF32); }

  void matrices(DType dtype) {
    args.lower = memory.input(dtype, {2, 3, 8, 8});
    args.inverse = memory.output(dtype, {2, 3, 8, 8});
    args.residual = memory.output(DType::kF32, {2, 3});
  }
};

TEST(CheckSolveTril, Legal) {
  SolveTrilCall call;
  SolveTrilProblem problem = expect_ok(call);
  EXPECT_EQ(problem.shape.op, Op::kSolveTril);
  EXPECT_EQ(problem.shape.sequences, 6);
  EXPECT_EQ(problem.shape.K, 8);
  EXPECT_EQ(problem.extents[0], 1);
  EXPECT_EQ(problem.extents[1], 2);
  EXPECT_EQ(problem.extents[2], 3);
  EXPECT_EQ(problem.lower_strides[1], 192);
  EXPECT_EQ(problem.residual_strides[2], 1);
  EXPECT_EQ(problem.lower_row_stride, 8);
  EXPECT_FALSE(problem.bf16_steps);
  using Call = SolveTrilCall;
  expect_legal<Call>({
      {"no residual", [](Call& c) { c.args.residual = {}; }},
      {"one matrix",
       [](Call& c) {
         c.args.lower = c.memory.input(DType::kF16, {256, 256});
         c.args.inverse = c.memory.output(DType::kF16, {256, 256});
         c.args.residual = c.memory.output(DType::kF32, {});
       }},
      {"five axes",
       [](Call& c) {
         c.args.lower = c.memory.input(DType::kF32, {1, 2, 3, 1, 1});
         c.args.inverse = c.memory.output(DType::kF32, {1, 2, 3, 1, 1});
         c.args.residual = c.memory.output(DType::kF32, {1, 2, 3});
       }},
      {"no iterations of the exact method", [](Call& c) { c.args.iterations = 0; }},
      {"bfloat16 steps",
       [](Call& c) {
         c.matrices(DType::kBF16);
         c.args.method = SolveMethod::kNeumann;
         c.args.compute = Compute::kBF16;
       }},
  });
}

TEST(CheckSolveTril, Errors) {
  using Call = SolveTrilCall;
  expect_errors<Call>({
      {[](Call& c) { c.args.lower = {}; },
       "lower is absent, expected a tensor [...,n,n] of 2 to 5 axes"},
      {[](Call& c) { c.args.lower.rank = 1; },
       "lower has shape [2], expected [...,n,n] of 2 to 5 axes"},
      {[](Call& c) {
         c.args.lower = c.memory.input(DType::kF32, {1, 1, 1, 1, 2, 2});
       },
       "lower has shape [1,1,1,1,2,2], expected [...,n,n] of 2 to 5 axes"},
      {[](Call& c) { c.args.lower.shape[2] = 7; },
       "lower has shape [2,3,7,8], expected square matrices"},
      {[](Call& c) { c.args.lower.shape[2] = c.args.lower.shape[3] = -8; },
       "lower has shape [2,3,-8,-8], expected no negative extent"},
      {[](Call& c) { c.args.lower.shape[2] = c.args.lower.shape[3] = 0; },
       "lower has n = 0, expected 1 to 256"},
      {[](Call& c) {
         c.args.lower = c.memory.input(DType::kF32, {257, 257});
       },
       "lower has n = 257, expected 1 to 256", StatusCode::kUnsupported},
      {[](Call& c) { c.args.lower.dtype = DType::kI32; },
       "lower has dtype int32, expected float32, bfloat16 or float16"},
      {[](Call& c) { c.args.lower.strides[3] = 2; },
       "lower has strides [192,64,8,2] for shape [2,3,8,8], expected a contiguous last axis"},
      {[](Call& c) { c.args.inverse = {}; }, "inverse is absent, expected a tensor [2,3,8,8]"},
      {[](Call& c) { c.args.inverse.shape[0] = 1; },
       "inverse has shape [1,3,8,8], expected [2,3,8,8]"},
      {[](Call& c) { c.args.inverse.dtype = DType::kBF16; },
       "inverse has dtype bfloat16, expected float32, the dtype of lower"},
      {[](Call& c) { c.args.inverse.strides[2] = 4; },
       "inverse has strides [192,64,4,1] for shape [2,3,8,8], "
       "expected elements that do not overlap"},
      {[](Call& c) { c.args.inverse = c.args.lower; },
       "inverse overlaps lower, expected memory of its own"},
      {[](Call& c) { c.args.residual.rank = 1; }, "residual has shape [2], expected [2,3]"},
      {[](Call& c) { c.args.residual.dtype = DType::kF16; },
       "residual has dtype float16, expected float32"},
      {[](Call& c) { c.args.residual.strides[0] = 0; },
       "residual has strides [0,1] for shape [2,3], expected elements that do not overlap"},
      {[](Call& c) { c.args.residual.data = c.args.inverse.data; },
       "residual overlaps inverse, expected memory of its own"},
      {[](Call& c) { c.args.method = static_cast<SolveMethod>(2); },
       "method is 2, expected kExact or kNeumann"},
      {[](Call& c) {
         c.args.method = SolveMethod::kNeumann;
         c.args.iterations = 0;
       },
       "iterations is 0, expected at least 1"},
      {[](Call& c) { c.args.compute = static_cast<Compute>(9); },
       "compute is 9, expected kAuto, kF32 or kBF16"},
      {[](Call& c) {
         c.matrices(DType::kBF16);
         c.args.compute = Compute::kBF16;
       },
       "compute is kBF16 with method kExact and dtype bfloat16, "
       "expected it only with kNeumann and bfloat16"},
      {[](Call& c) {
         c.args.method = SolveMethod::kNeumann;
         c.args.compute = Compute::kBF16;
       },
       "compute is kBF16 with method kNeumann and dtype float32, "
       "expected it only with kNeumann and bfloat16"},
  });
}

}  // namespace
}  // namespace gdn
