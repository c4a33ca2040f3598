// solve_tril() against the inverses in double, which the kernel "reference" runs.
#include <gtest/gtest.h>

#include <cmath>
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

// What a chunk of n tokens solves: beta_i k_i . k_j of keys of 128 elements below the diagonal, NaN
// on and above it, where nothing may be read.
Tensor system_of(DType dtype, std::vector<int64_t> shape, Placement placement, bool identical_keys,
                 uint64_t seed) {
  Random random(seed);
  const int64_t n = shape.back();
  Tensor lower(dtype, std::move(shape), std::move(placement));
  for (int64_t i = 0; i < lower.size(); ++i) {
    const double product = identical_keys ? .99 : random.normal() / std::sqrt(128.0);
    if (i % n < i / n % n) lower.set(i, product);
  }
  return lower;
}

// The strictly lower part in float32, for the reference: the same values.
Tensor widened(const Tensor& lower) {
  Tensor wide(DType::kF32, lower.shape());
  const int64_t n = lower.extent(lower.rank() - 1);
  for (int64_t i = 0; i < lower.size(); ++i) {
    if (i % n < i / n % n) wide.set(i, lower.get(i));
  }
  return wide;
}

struct Options {
  SolveMethod method = SolveMethod::kExact;
  int64_t iterations = 14;
  bool hard = false;
};

void expect_inverse(const Tensor& lower, const Tensor& inverse, const Options& options) {
  const int64_t n = lower.extent(lower.rank() - 1);
  SolveTrilArgs args;
  args.method = options.method;
  args.iterations = options.iterations;
  const Tensor wide = widened(lower);
  const Tensor exact(DType::kF32, lower.shape());
  args.lower = wide.view();
  args.inverse = exact.view();
  Context reference;
  reference.kernel = "reference";
  expect_ok(solve_tril(reference, args));
  const std::vector<double> want = exact.to_doubles();
  for_each_kernel([&](Context& context) {
    const Tensor got = inverse.clone();
    args.lower = lower.view();
    args.inverse = got.view();
    expect_ok(solve_tril(context, args));
    verify::Comparand about;
    about.hard = options.hard;
    expect_close("inverse", got, want, about);
    expect_only_elements_changed(got, inverse);
    for (int64_t i = 0; i < got.size(); ++i) {
      const int64_t row = i / n % n, column = i % n;
      if (column >= row) {
        ASSERT_EQ(got.get(i), row == column ? 1 : 0) << i;
      }
    }
  });
}

TEST(SolveTril, ExactAgreesWithTheInverseForAnySizeAndDtype) {
  uint64_t seed = 1;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int64_t n : {1, 2, 15, 16, 17, 33, 64, 100, 128, 256}) {
      SCOPED_TRACE(testing::Message() << name_of(dtype) << " n " << n << " seed " << seed);
      const std::vector<int64_t> shape = {3, n, n};
      expect_inverse(system_of(dtype, shape, {}, false, seed++), Tensor(dtype, shape), {});
    }
  }
}

TEST(SolveTril, ExactHoldsForIdenticalKeys) {
  for (int64_t n : {16, 64, 256}) {
    const std::vector<int64_t> shape = {n, n};
    expect_inverse(system_of(DType::kF32, shape, {}, true, 1), Tensor(DType::kF32, shape),
                   {.hard = true});
  }
}

TEST(SolveTril, AgreesForAnyAxesAndStrides) {
  const std::vector<int64_t> shape = {2, 3, 2, 20, 20};
  const Placement gaps = {{3400, 1100, 510, 23, 1}, 3};
  expect_inverse(system_of(DType::kBF16, shape, gaps, false, 50), Tensor(DType::kBF16, shape, gaps),
                 {});
  expect_inverse(system_of(DType::kF32, shape, {}, false, 51), Tensor(DType::kF32, shape, gaps),
                 {});
}

TEST(SolveTril, NeumannAgreesAfterAnyNumberOfIterations) {
  for (int64_t iterations : {1, 2, 3, 14}) {
    for (int64_t n : {1, 16, 33, 64}) {
      SCOPED_TRACE(testing::Message() << n << " x " << n << ", " << iterations << " iterations");
      const std::vector<int64_t> shape = {2, n, n};
      expect_inverse(system_of(DType::kF32, shape, {}, false, 60), Tensor(DType::kF32, shape),
                     {.method = SolveMethod::kNeumann, .iterations = iterations});
    }
  }
}

// bfloat16 steps round where the definition rounds; a sum in another order may round another way.
TEST(SolveTril, NeumannInBfloat16StepsIsAsFarOffAsTheDefinitionOfIt) {
  const std::vector<int64_t> shape = {8, 64, 64};
  const Tensor lower = system_of(DType::kBF16, shape, {}, false, 70);
  SolveTrilArgs args;
  args.lower = lower.view();
  args.method = SolveMethod::kNeumann;
  args.compute = Compute::kBF16;
  const Tensor want(DType::kBF16, shape);
  args.inverse = want.view();
  Context reference;
  reference.kernel = "reference";
  expect_ok(solve_tril(reference, args));
  for_each_kernel([&](Context& context) {
    const Tensor got(DType::kBF16, shape);
    args.inverse = got.view();
    expect_ok(solve_tril(context, args));
    verify::Comparand about;
    about.compute = Compute::kBF16;
    expect_close("inverse", got, want.to_doubles(), about);
  });
}

TEST(SolveTril, ResidualIsOfOrderOfRoundingForExactAndLargeBeforeNeumannConverges) {
  const std::vector<int64_t> shape = {4, 64, 64};
  const Tensor lower = system_of(DType::kF32, shape, {}, false, 80);
  for_each_kernel([&](Context& context) {
    const Tensor inverse(DType::kF32, shape);
    Tensor residual(DType::kF32, {4}, {{2}, 1});
    const Tensor before = residual.clone();
    SolveTrilArgs args;
    args.lower = lower.view();
    args.inverse = inverse.view();
    args.residual = residual.view();
    expect_ok(solve_tril(context, args));
    for (int64_t i = 0; i < 4; ++i) EXPECT_LT(residual.get(i), 1e-6);
    args.method = SolveMethod::kNeumann;
    args.iterations = 1;
    expect_ok(solve_tril(context, args));
    for (int64_t i = 0; i < 4; ++i) EXPECT_GT(residual.get(i), 1e-3);
    expect_only_elements_changed(residual, before);
  });
}

TEST(SolveTril, AlignmentChangesNoBit) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t n : {8, 32, 48, 64}) {
      const std::vector<int64_t> shape = {3, n, n};
      const Placement gaps = {{n * (n + 3) + 5, n + 3, 1}, 1};
      const Tensor lower = system_of(dtype, shape, {}, false, 95);
      const Tensor shifted = system_of(dtype, shape, gaps, false, 95);
      for_each_kernel([&](Context& context) {
        SCOPED_TRACE(testing::Message() << name_of(dtype) << " n " << n);
        const Tensor aligned(dtype, shape), unaligned(dtype, shape, gaps);
        SolveTrilArgs args;
        args.lower = lower.view();
        args.inverse = aligned.view();
        expect_ok(solve_tril(context, args));
        args.lower = shifted.view();
        args.inverse = unaligned.view();
        expect_ok(solve_tril(context, args));
        for (int64_t i = 0; i < aligned.size(); ++i) {
          ASSERT_TRUE(aligned.same_bits(i, unaligned, i)) << i;
        }
      });
    }
  }
}

TEST(SolveTril, NaNStaysInItsMatrix) {
  const std::vector<int64_t> shape = {3, 32, 32};
  Tensor lower = system_of(DType::kF32, shape, {}, false, 90);
  for_each_kernel([&](Context& context) {
    Tensor clean(DType::kF32, shape), spoiled(DType::kF32, shape);
    SolveTrilArgs args;
    args.lower = lower.view();
    args.inverse = clean.view();
    expect_ok(solve_tril(context, args));
    Tensor with_nan = lower.clone();
    with_nan.set(1 * 32 * 32 + 10 * 32 + 3, std::nan(""));
    args.lower = with_nan.view();
    args.inverse = spoiled.view();
    expect_ok(solve_tril(context, args));
    EXPECT_TRUE(std::isnan(spoiled.get(1 * 32 * 32 + 10 * 32 + 3)));
    for (int64_t i = 0; i < clean.size(); ++i) {
      if (i / (32 * 32) != 1) {
        ASSERT_TRUE(spoiled.same_bits(i, clean, i)) << i;
      }
    }
  });
}

}  // namespace
}  // namespace gdn::tests
