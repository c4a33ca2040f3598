// What every property test runs over, and how it fails.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "gdn/context.h"
#include "gdn/executor.h"
#include "gdn/status.h"
#include "verify/run.h"
#include "verify/tensor.h"
#include "verify/tolerance.h"

namespace gdn::tests {

// Names of all kernels of this build that this machine supports, "reference" among them; with
// GDN_KERNEL in the environment that one alone.
std::vector<std::string> supported_kernels();

// One shared std::thread executor of so many threads; nullptr for 1.
Executor* executor_of(int threads);

// GDN_TESTS=quick in the environment: a subset that a sanitizer build can afford.
bool quick();

// Runs body(context) with every supported kernel forced; failures name it.
template <class Body>
void for_each_kernel(const Body& body) {
  for (const std::string& kernel : supported_kernels()) {
    SCOPED_TRACE("kernel " + kernel);
    Context context;
    context.kernel = kernel.c_str();
    body(context);
  }
}

// Fails the current test unless a call succeeded.
void expect_ok(const Status& status);
// ... unless a tensor is within its tolerance of the expected values.
void expect_close(const std::string& name, const verify::Tensor& got,
                  const std::vector<double>& expected, const verify::Comparand& about = {});
// ... unless nothing between and around the elements of an output changed since `before`, a clone.
void expect_only_elements_changed(const verify::Tensor& got, const verify::Tensor& before);

// Fails the current test, with the line that repeats it, unless the case holds on every kernel.
void expect_case(const verify::Case& c, int threads = 1);
void expect(const verify::Expected& expected, int threads = 1);

}  // namespace gdn::tests
