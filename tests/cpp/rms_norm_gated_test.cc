// rms_norm_gated() against the definition in double, which the kernel "reference" runs.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "gdn/ops.h"
#include "kernels_under_test.h"
#include "verify/random.h"
#include "verify/tensor.h"

namespace gdn::tests {
namespace {

using verify::Placement;
using verify::Random;
using verify::Tensor;

struct Inputs {
  Tensor x, z, weight;
};

Inputs random_inputs(DType dtype, DType weight, const std::vector<int64_t>& shape,
                     const Placement& placement, uint64_t seed) {
  Random random(seed);
  const int64_t D = shape.back();
  Inputs inputs{Tensor(dtype, shape, placement), Tensor(dtype, shape, placement),
                Tensor(weight, {D})};
  double scale = 0;
  for (int64_t i = 0; i < inputs.x.size(); ++i) {
    if (i % D == 0) scale = i / D % 7 == 3 ? 0 : std::exp(random.normal());  // rows of zeros too
    inputs.x.set(i, scale * random.normal());
    inputs.z.set(i, 4 * random.normal());
  }
  for (int64_t i = 0; i < D; ++i) inputs.weight.set(i, 1 + .3 * random.normal());
  return inputs;
}

RmsNormGatedArgs args_of(const Inputs& inputs, const Tensor& y, double eps) {
  RmsNormGatedArgs args;
  args.x = inputs.x.view();
  args.z = inputs.z.view();
  args.weight = inputs.weight.view();
  args.y = y.view();
  args.eps = eps;
  return args;
}

void expect_rms_norm_gated(const Inputs& inputs, const Tensor& y, double eps, int threads = 1) {
  const Tensor exact(DType::kF32, inputs.x.shape());
  Context reference;
  reference.kernel = "reference";
  expect_ok(rms_norm_gated(reference, args_of(inputs, exact, eps)));
  const std::vector<double> want = exact.to_doubles();
  for_each_kernel([&](Context& context) {
    context.executor = executor_of(threads);
    const Tensor got = y.clone();
    expect_ok(rms_norm_gated(context, args_of(inputs, got, eps)));
    expect_close("y", got, want);
    expect_only_elements_changed(got, y);
  });
}

TEST(RmsNormGated, AgreesWithTheFormula) {
  const std::vector<int64_t> shape = {2, 2};
  Inputs inputs{Tensor(DType::kF32, shape), Tensor(DType::kF32, shape), Tensor(DType::kF32, {2})};
  inputs.x.from_doubles({3, 4, 0, -2});
  inputs.z.from_doubles({1, -2, 0, 30});
  inputs.weight.from_doubles({1, .5});
  const double a = std::sqrt(12.5 + .5), b = std::sqrt(2 + .5);
  const std::vector<double> want = {3 / a / (1 + std::exp(-1.)),
                                    .5 * 4 / a * -2 / (1 + std::exp(2.)), 0, .5 * -2 / b * 30};
  for_each_kernel([&](Context& context) {
    const Tensor y(DType::kF32, shape);
    expect_ok(rms_norm_gated(context, args_of(inputs, y, .5)));
    expect_close("y", y, want);
  });
}

TEST(RmsNormGated, AgreesWithTheDefinitionForAnyDtypeAndLength) {
  uint64_t seed = 1;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (DType to : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (int64_t D : {1, 2, 15, 16, 17, 64, 96, 128, 200, 256, 1000}) {
        SCOPED_TRACE(testing::Message() << name_of(dtype) << " D " << D << " seed " << seed);
        const DType weight = static_cast<DType>(seed % 3);
        const std::vector<int64_t> shape = {37, D};
        expect_rms_norm_gated(random_inputs(dtype, weight, shape, {}, seed), Tensor(to, shape),
                              1e-6, seed % 2 == 0 ? 3 : 1);
        ++seed;
      }
    }
  }
}

TEST(RmsNormGated, AgreesForAnyAxesAndStrides) {
  const std::vector<int64_t> shape = {3, 5, 4, 20};
  const Placement gaps = {{600, 120, 25, 1}, 3};
  const Placement turned = {{22, 66, 330, 1}, 1};
  const auto inputs = [&](DType dtype, const std::vector<int64_t>& s, const Placement& p,
                          uint64_t seed) { return random_inputs(dtype, DType::kF32, s, p, seed); };
  expect_rms_norm_gated(inputs(DType::kBF16, shape, gaps, 50), Tensor(DType::kBF16, shape, gaps),
                        1e-6);
  expect_rms_norm_gated(inputs(DType::kF32, shape, turned, 51), Tensor(DType::kF32, shape, gaps),
                        0.5, 3);
  expect_rms_norm_gated(inputs(DType::kF32, {19}, {}, 52), Tensor(DType::kF32, {19}), 1e-6);
  expect_rms_norm_gated(inputs(DType::kF32, {4, 0, 19}, {}, 53), Tensor(DType::kF32, {4, 0, 19}),
                        1e-6);
  // A strided weight.
  Inputs strided = inputs(DType::kF32, {9, 37}, {}, 54);
  strided.weight = Tensor(DType::kBF16, {37}, {{3}, 2});
  for (int64_t i = 0; i < 37; ++i) strided.weight.set(i, 1 + .01 * static_cast<double>(i));
  expect_rms_norm_gated(strided, Tensor(DType::kF32, {9, 37}), 1e-6);
}

TEST(RmsNormGated, ThreadsBatchAndAlignmentChangeNoBitAndNaNStaysInItsRow) {
  const std::vector<int64_t> shape = {900, 100};
  for_each_kernel([&](Context& context) {
    Inputs inputs = random_inputs(DType::kBF16, DType::kF32, shape, {}, 60);
    const Tensor y(DType::kF32, shape);
    expect_ok(rms_norm_gated(context, args_of(inputs, y, 1e-6)));
    context.executor = executor_of(5);
    const Tensor threads(DType::kF32, shape);
    expect_ok(rms_norm_gated(context, args_of(inputs, threads, 1e-6)));
    context.executor = nullptr;
    // The same rows further on in memory, some of them alone.
    Inputs moved = random_inputs(DType::kBF16, DType::kF32, shape, {{103, 1}, 7}, 60);
    const Tensor far(DType::kF32, shape, {{101, 1}, 3});
    RmsNormGatedArgs part = args_of(moved, far, 1e-6);
    expect_ok(rms_norm_gated(context, part));
    inputs.x.set(17 * 100 + 3, std::nan(""));
    const Tensor spoiled(DType::kF32, shape);
    expect_ok(rms_norm_gated(context, args_of(inputs, spoiled, 1e-6)));
    int64_t differ = 0;
    for (int64_t i = 0; i < y.size(); ++i) {
      differ += !y.same_bits(i, threads, i) || !y.same_bits(i, far, i);
      if (i / 100 != 17) differ += !y.same_bits(i, spoiled, i);
    }
    EXPECT_EQ(differ, 0);
    EXPECT_TRUE(std::isnan(spoiled.get(17 * 100)));
  });
}

// Outputs of 16 MiB and more are stored past the caches where they are aligned.
TEST(RmsNormGated, LargeOutputsHaveTheSameBits) {
  if (quick()) GTEST_SKIP() << "too large for the quick subset";
  const std::vector<int64_t> shape = {1050, 32, 128};
  const Inputs inputs = random_inputs(DType::kBF16, DType::kF32, shape, {}, 70);
  for_each_kernel([&](Context& context) {
    context.executor = executor_of(2);
    const Tensor y(DType::kF32, shape), unaligned(DType::kF32, shape, {{4096, 128, 1}, 1});
    expect_ok(rms_norm_gated(context, args_of(inputs, y, 1e-6)));
    expect_ok(rms_norm_gated(context, args_of(inputs, unaligned, 1e-6)));
    int64_t differ = 0;
    for (int64_t i = 0; i < y.size(); ++i) differ += !y.same_bits(i, unaligned, i);
    EXPECT_EQ(differ, 0);
  });
}

}  // namespace
}  // namespace gdn::tests
