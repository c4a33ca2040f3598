// A tensor against what it should be.
#pragma once

#include <string>
#include <vector>

#include "verify/run.h"
#include "verify/tensor.h"
#include "verify/tolerance.h"

namespace gdn::verify {

// `about` says what the bound depends on besides the values: quantity, compute, hard.
Comparison compare(const std::string& name, const Tensor& got, const std::vector<double>& expected,
                   Comparand about);

}  // namespace gdn::verify
