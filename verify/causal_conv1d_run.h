// causal_conv1d() against the double reference: the part of Expected that is its own.
#pragma once

#include <cstdint>

#include "gdn/context.h"
#include "gdn/status.h"
#include "verify/inputs.h"
#include "verify/run.h"
#include "verify/wanted.h"

namespace gdn::verify {

struct CausalConv1dExpected {
  Status status;  // of the checks: nothing is expected unless it is ok
  CausalConv1dData data;
  Wanted y, final_state;
  uint64_t input_hash = 0;
};

CausalConv1dExpected expect_causal_conv1d(const Case& c);
Result run_causal_conv1d(Context& context, const CausalConv1dExpected& expected);

}  // namespace gdn::verify
