// What every property test runs over, and how it fails.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gdn/context.h"
#include "gdn/executor.h"
#include "verify/run.h"

namespace gdn::tests {

// Names of all kernels of this build that this machine supports, "reference" among them; with
// GDN_KERNEL in the environment that one alone.
std::vector<std::string> supported_kernels();

// One shared std::thread executor of so many threads; nullptr for 1.
Executor* executor_of(int threads);

// GDN_TESTS=quick in the environment: a subset that a sanitizer build can afford.
bool quick();

// Fails the current test, with the line that repeats it, unless the case holds on every kernel.
void expect_case(const verify::Case& c, int threads = 1);
void expect(const verify::Expected& expected, int threads = 1);

}  // namespace gdn::tests
