// What operands of float16 might lose. Values far below its least, and g above 0, which is computed
// as it is: a state that grows inside a chunk by a factor that float16 hardly holds. Beyond sums of
// g of some 8 in a chunk operands of float16 have not the range any more
// (docs/kernels/chunk-sm90.md).
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "near_reference.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::DeltaRuleData;

verify::Case small_case() {
  verify::Case c;
  c.lengths = {330, 70};
  c.HV = 2;
  c.K = c.V = 128;
  c.dtype = DType::kBF16;
  c.l2norm = true;
  return c;
}

// Sums of g that rise by `rise` over some 40 tokens and come down after them, again and again.
DeltaRuleData growing(double rise) {
  DeltaRuleData data = verify::make_delta_rule(small_case());
  for (int64_t i = 0; i < data.g.size(); ++i) {
    const int64_t token = i / data.about.HV;
    data.g.set(i, token % 100 < 40 ? rise / 40 : -rise / 50);
  }
  return data;
}

TEST(Growth, OfTheStateInsideAChunkIsNotLost) {
  for (const double rise : {2.0, 8.0}) {
    SCOPED_TRACE("rise " + std::to_string(rise));
    // The bound of hard inputs (verify/tolerance.h).
    expect_near_reference([&] { return growing(rise); }, 5e-3, 5e-3);
  }
}

TEST(Range, OfTinyValuesNothingIsLost) {
  const auto tiny = [] {
    verify::Case c = small_case();
    c.states = verify::States::kFinalOnly;
    DeltaRuleData data = verify::make_delta_rule(c);
    for (int64_t i = 0; i < data.v.size(); ++i) data.v.set(i, data.v.get(i) * 0x1p-40);
    return data;
  };
  expect_near_reference(tiny, 3.5e-3, 3e-3);  // as usual inputs
}

// The powers of two by which keys come to float16 are to be float16 themselves.
TEST(Range, OfTinyKeysNothingIsLost) {
  const auto tiny = [] {
    verify::Case c = small_case();
    c.dtype = DType::kF16;
    DeltaRuleData data = verify::make_delta_rule(c);
    for (int64_t i = 0; i < data.k.size(); ++i) data.k.set(i, data.k.get(i) * 0x1p-19);
    return data;
  };
  expect_near_reference(tiny, 3.5e-3, 3e-3);
}

}  // namespace
}  // namespace gdn::tests
