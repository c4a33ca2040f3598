// What operands of float16 might lose. Values far below its least, and g above 0, which is computed
// as it is: a state that grows inside a chunk by a factor that float16 hardly holds. Beyond sums of
// g of some 8 in a chunk operands of float16 have not the range any more
// (docs/kernels/chunk-sm90.md).
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kernels_under_test.h"
#include "relative_error.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::DeltaRuleData;

// Sums of g that rise by `rise` over some 40 tokens and come down after them, again and again.
DeltaRuleData growing(double rise) {
  verify::Case c;
  c.lengths = {330, 70};
  c.HV = 2;
  c.K = c.V = 128;
  c.dtype = DType::kBF16;
  c.l2norm = true;
  DeltaRuleData data = verify::make_delta_rule(c);
  for (int64_t i = 0; i < data.g.size(); ++i) {
    const int64_t token = i / c.HV;
    data.g.set(i, token % 100 < 40 ? rise / 40 : -rise / 50);
  }
  return data;
}

TEST(Growth, OfTheStateInsideAChunkIsNotLost) {
  for (const double rise : {2.0, 8.0}) {
    Context reference;
    reference.kernel = "reference";
    DeltaRuleData expected = growing(rise);
    expect_ok(verify::call(reference, expected));
    for_each_kernel([&](Context& context) {
      DeltaRuleData got = growing(rise);
      expect_ok(verify::call(context, got));
      // The bound of hard inputs (verify/tolerance.h).
      EXPECT_LE(relative_error(got.out, expected.out), 5e-3) << "rise " << rise;
      EXPECT_LE(relative_error(got.final_state, expected.final_state), 5e-3) << "rise " << rise;
    });
  }
}

TEST(Range, OfTinyValuesNothingIsLost) {
  const auto tiny = [] {
    verify::Case c;
    c.lengths = {330, 70};
    c.HV = 2;
    c.K = c.V = 128;
    c.dtype = DType::kBF16;
    c.l2norm = true;
    c.states = verify::States::kFinalOnly;
    DeltaRuleData data = verify::make_delta_rule(c);
    for (int64_t i = 0; i < data.v.size(); ++i) data.v.set(i, data.v.get(i) * 0x1p-40);
    return data;
  };
  Context reference;
  reference.kernel = "reference";
  DeltaRuleData expected = tiny();
  expect_ok(verify::call(reference, expected));
  for_each_kernel([&](Context& context) {
    DeltaRuleData got = tiny();
    expect_ok(verify::call(context, got));
    EXPECT_LE(relative_error(got.out, expected.out), 3.5e-3);
    EXPECT_LE(relative_error(got.final_state, expected.final_state), 3e-3);
  });
}

}  // namespace
}  // namespace gdn::tests
