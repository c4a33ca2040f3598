// Every tolerance of the project (docs/design.md, "Accuracy"). Errors are L2 norms of differences
// from the double reference, over a whole tensor, inputs taken as stored.
#pragma once

#include <cstdint>

#include "gdn/ops.h"
#include "gdn/tensor.h"
#include "verify/case.h"

namespace gdn::verify {

enum class Quantity : uint8_t {
  kOutput,
  kState,
  kCopy,  // numbers of the inputs, rounded to another dtype at most
};

// What a bound depends on.
struct Comparand {
  Quantity quantity = Quantity::kOutput;
  DType dtype = DType::kF32;        // of the tensor
  Compute compute = Compute::kF32;  // what the kernel's products took: Plan::compute
  bool hard = false;                // input is not Input::kUsual
  int64_t elements = 0;             // of the tensor
  double norm = 0;                  // of the reference
  double rounding_error = 0;        // of the reference rounded to dtype
};

// The largest error that is right; 0 for a zero reference.
double error_bound(const Comparand& c);

}  // namespace gdn::verify
