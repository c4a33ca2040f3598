// gating() against the definition in double, which the kernel "reference" runs.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "gdn/ops.h"
#include "kernels_under_test.h"
#include "verify/inputs.h"
#include "verify/tensor.h"

namespace gdn::tests {
namespace {

using verify::Placement;
using verify::Random;
using verify::Tensor;

struct Gating {
  Tensor a, A_log, dt_bias, b, g, beta;
  GatingArgs args;

  void view() {
    args.a = a.view();
    args.A_log = A_log.view();
    args.dt_bias = dt_bias.view();
    args.b = b.view();
    args.g = g.view();
    args.beta = beta.view();
  }
};

// What the definition gives for the same inputs, rounded to float32 alone.
struct Wanted {
  std::vector<double> g, beta;
};
Wanted wanted(Gating call) {
  call.g = Tensor(DType::kF32, call.g.shape());
  if (call.beta.given()) call.beta = Tensor(DType::kF32, call.beta.shape());
  call.view();
  Context context;
  context.kernel = "reference";
  expect_ok(gating(context, call.args));
  return {call.g.to_doubles(), call.beta.given() ? call.beta.to_doubles() : std::vector<double>()};
}

void expect_gating(const Gating& call) {
  const Wanted want = wanted(call);
  for_each_kernel([&](Context& context) {
    Gating run = call;
    run.g = call.g.clone();
    if (call.beta.given()) run.beta = call.beta.clone();
    run.view();
    expect_ok(gating(context, run.args));
    expect_close("g", run.g, want.g);
    expect_only_elements_changed(run.g, call.g);
    if (!call.beta.given()) return;
    expect_close("beta", run.beta, want.beta);
    expect_only_elements_changed(run.beta, call.beta);
  });
}

Gating random_call(DType dtype, int64_t B, int64_t T, int64_t HV, bool padded, uint64_t seed) {
  Random random(seed);
  Placement placement;
  if (padded) placement = {{T * (2 * HV + 3) + 1, 2 * HV + 3, 2}, 1};
  Gating call;
  call.a = Tensor(dtype, {B, T, HV}, placement);
  call.b = Tensor(dtype, {B, T, HV}, placement);
  call.A_log = Tensor(DType::kF32, {HV});
  call.dt_bias = Tensor(dtype, {HV});
  call.g = Tensor(DType::kF32, {B, T, HV}, placement);
  call.beta = Tensor(dtype, {B, T, HV}, placement);
  for (int64_t h = 0; h < HV; ++h) {
    call.A_log.set(h, 3 * random.uniform());
    call.dt_bias.set(h, random.normal());
  }
  for (int64_t i = 0; i < call.a.size(); ++i) {
    call.a.set(i, 8 * random.normal());
    call.b.set(i, 8 * random.normal());
  }
  return call;
}

TEST(Gating, AgreesWithTheDefinitionForAnyDtypeShapeAndStride) {
  uint64_t seed = 1;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int64_t HV : {1, 7, 16, 33}) {
      for (int64_t T : {0, 1, 65}) {
        for (bool padded : {false, true}) {
          SCOPED_TRACE(testing::Message() << name_of(dtype) << " T " << T << " HV " << HV
                                          << (padded ? " padded" : "") << " seed " << seed);
          expect_gating(random_call(dtype, 2, T, HV, padded, seed++));
        }
      }
    }
  }
}

TEST(Gating, AgreesWithEveryOption) {
  Gating call = random_call(DType::kF32, 1, 100, 8, false, 100);
  call.args.softplus_beta = 2;
  call.args.softplus_threshold = 5;
  call.args.allow_neg_eigval = true;
  expect_gating(call);
  call.dt_bias = {};
  expect_gating(call);
  call.b = {};
  call.beta = {};
  expect_gating(call);
}

TEST(Gating, HoldsElementByElementFromUnderflowToTheThreshold) {
  const int64_t count = 8001;
  Gating call;
  call.a = Tensor(DType::kF32, {1, count, 1});
  call.b = Tensor(DType::kF32, {1, count, 1});
  call.A_log = Tensor(DType::kF32, {1});
  call.A_log.set(0, 0);
  call.g = Tensor(DType::kF32, {1, count, 1});
  call.beta = Tensor(DType::kF32, {1, count, 1});
  for (int64_t i = 0; i < count; ++i) {
    const double x = static_cast<double>(i - count / 2) * .02;  // -80 .. 80
    call.a.set(i, x);
    call.b.set(i, x);
  }
  const Wanted want = wanted(call);
  for_each_kernel([&](Context& context) {
    call.view();
    expect_ok(gating(context, call.args));
    for (int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(i);
      ASSERT_NEAR(call.g.get(i), want.g[at], 1e-6 * std::fabs(want.g[at])) << call.a.get(i);
      ASSERT_NEAR(call.beta.get(i), want.beta[at], 1e-6 * want.beta[at]) << call.b.get(i);
    }
  });
}

TEST(Gating, FollowsInfinitiesAndNaN) {
  const double infinity = std::numeric_limits<double>::infinity();
  for_each_kernel([&](Context& context) {
    Gating call = random_call(DType::kF32, 1, 20, 3, false, 7);
    call.a.set(5, std::nan(""));
    call.a.set(20, infinity);
    call.a.set(35, -infinity);
    call.b.set(4, std::nan(""));
    call.b.set(21, infinity);
    call.b.set(36, -infinity);
    call.view();
    expect_ok(gating(context, call.args));
    EXPECT_TRUE(std::isnan(call.g.get(5)));
    EXPECT_EQ(call.g.get(20), -infinity);
    EXPECT_EQ(call.g.get(35), 0);
    EXPECT_TRUE(std::isnan(call.beta.get(4)));
    EXPECT_EQ(call.beta.get(21), 1);
    EXPECT_EQ(call.beta.get(36), 0);
    for (int64_t i = 0; i < call.g.size(); ++i) {
      if (i != 5) {
        EXPECT_FALSE(std::isnan(call.g.get(i))) << i;
      }
      if (i != 4) {
        EXPECT_FALSE(std::isnan(call.beta.get(i))) << i;
      }
    }
  });
}

}  // namespace
}  // namespace gdn::tests
