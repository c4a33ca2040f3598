// l2norm() against the definition in double, which the kernel "reference" runs.
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

Tensor random_rows(DType dtype, const std::vector<int64_t>& shape, Placement placement,
                   uint64_t seed) {
  Random random(seed);
  Tensor x(dtype, shape, std::move(placement));
  const int64_t D = shape.back();
  double scale = 0;
  for (int64_t i = 0; i < x.size(); ++i) {
    if (i % D == 0) scale = i / D % 7 == 3 ? 0 : std::exp(random.normal());  // rows of zeros too
    x.set(i, scale * random.normal());
  }
  return x;
}

void expect_l2norm(const Tensor& x, const Tensor& y, double eps) {
  L2normArgs args;
  args.x = x.view();
  args.eps = eps;
  const Tensor exact(DType::kF32, x.shape());
  args.y = exact.view();
  Context reference;
  reference.kernel = "reference";
  expect_ok(l2norm(reference, args));
  const std::vector<double> want = exact.to_doubles();
  for_each_kernel([&](Context& context) {
    const Tensor got = y.clone();
    args.y = got.view();
    expect_ok(l2norm(context, args));
    expect_close("y", got, want);
    expect_only_elements_changed(got, y);
  });
}

TEST(L2norm, AgreesWithTheDefinitionForAnyDtypeAndLength) {
  uint64_t seed = 1;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (DType to : {DType::kF32, dtype}) {
      for (int64_t D : {1, 2, 15, 16, 17, 64, 96, 128, 200, 256, 1000}) {
        SCOPED_TRACE(testing::Message() << name_of(dtype) << " D " << D << " seed " << seed);
        const std::vector<int64_t> shape = {37, D};
        expect_l2norm(random_rows(dtype, shape, {}, seed++), Tensor(to, shape), 1e-6);
      }
    }
  }
}

TEST(L2norm, AgreesForAnyAxesAndStrides) {
  const std::vector<int64_t> shape = {3, 5, 4, 20};
  const Placement gaps = {{600, 120, 25, 1}, 3};
  expect_l2norm(random_rows(DType::kBF16, shape, gaps, 50), Tensor(DType::kBF16, shape, gaps),
                1e-6);
  expect_l2norm(random_rows(DType::kF32, shape, {}, 51), Tensor(DType::kF32, shape, gaps), 0.5);
  expect_l2norm(random_rows(DType::kF32, {19}, {}, 52), Tensor(DType::kF32, {19}), 1e-6);
  expect_l2norm(random_rows(DType::kF32, {4, 0, 19}, {}, 53), Tensor(DType::kF32, {4, 0, 19}),
                1e-6);
}

TEST(L2norm, AlignmentChangesNoBit) {
  uint64_t seed = 60;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int64_t D : {64, 128, 256, 512, 1024}) {
      const std::vector<int64_t> shape = {70, D};
      const Tensor x = random_rows(dtype, shape, {}, seed);
      const Tensor shifted = random_rows(dtype, shape, {{D + 3, 1}, 1}, seed++);
      for_each_kernel([&](Context& context) {
        SCOPED_TRACE(testing::Message() << name_of(dtype) << " D " << D);
        const Tensor y(dtype, shape), z(dtype, shape, {{D + 5, 1}, 3});
        L2normArgs args;
        args.x = x.view();
        args.y = y.view();
        expect_ok(l2norm(context, args));
        args.x = shifted.view();
        args.y = z.view();
        expect_ok(l2norm(context, args));
        for (int64_t i = 0; i < y.size(); ++i) ASSERT_TRUE(y.same_bits(i, z, i)) << i;
      });
    }
  }
}

}  // namespace
}  // namespace gdn::tests
