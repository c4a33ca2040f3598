// What the tests share that compare ways in which the chunk operator on Hopper may be worked: a
// case, and the bits that a call of one leaves.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "bits.h"
#include "kernels_under_test.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace gdn::tests {

// Of bfloat16 tensors, K = V = 128, without a context split.
inline verify::Case one_sequence(int64_t length, int64_t H, int64_t HV) {
  verify::Case c;
  c.lengths = {length};
  c.H = H;
  c.HV = HV;
  c.K = c.V = 128;
  c.dtype = DType::kBF16;
  c.l2norm = true;
  c.context_split = ContextSplit::kOff;
  c.seed = 23;
  return c;
}

inline std::vector<Bits> bits_of_call(Context& context, const verify::Case& c) {
  verify::DeltaRuleData data = verify::make_delta_rule(c);
  expect_ok(verify::call(context, data));
  return bits_of(data);
}

}  // namespace gdn::tests
