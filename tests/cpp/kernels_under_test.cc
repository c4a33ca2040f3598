#include "kernels_under_test.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string_view>

#include "gdn/plan.h"
#include "verify/compare.h"

namespace gdn::tests {

std::vector<std::string> supported_kernels() {
  const char* only = std::getenv("GDN_KERNEL");
  std::vector<std::string> names;
  for (const KernelInfo& kernel : kernels()) {
    // The CUDA tests have two backends with the same kernels.
    const bool seen = std::find(names.begin(), names.end(), kernel.name) != names.end();
    if (kernel.supported && !seen && (only == nullptr || kernel.name == only)) {
      names.emplace_back(kernel.name);
    }
  }
  return names;
}

Executor* executor_of(int threads) {
  static std::map<int, std::unique_ptr<Executor>> executors;
  if (threads == 1) return nullptr;
  std::unique_ptr<Executor>& executor = executors[threads];
  if (executor == nullptr) executor = make_thread_executor(threads);
  return executor.get();
}

bool quick() {
  const char* tests = std::getenv("GDN_TESTS");
  return tests != nullptr && std::string_view(tests) == "quick";
}

void expect_ok(const Status& status) { EXPECT_TRUE(status.ok()) << status.message(); }

void expect_close(const std::string& name, const verify::Tensor& got,
                  const std::vector<double>& expected, const verify::Comparand& about) {
  const verify::Comparison comparison = verify::compare(name, got, expected, about);
  EXPECT_TRUE(comparison.ok()) << name << ": error " << comparison.relative_error() << ", bound "
                               << comparison.relative_bound();
}

void expect_only_elements_changed(const verify::Tensor& got, const verify::Tensor& before) {
  EXPECT_TRUE(got.only_elements_changed(before)) << "bytes between or around the elements changed";
}

void expect(const verify::Expected& expected, int threads) {
  for (const std::string& kernel : supported_kernels()) {
    Context context;
    context.kernel = kernel.c_str();
    context.executor = executor_of(threads);
    const verify::Result result = expected.run(context);
    EXPECT_TRUE(result.ok()) << "\n" << verify::describe(result, expected.about(), context);
  }
}

void expect_case(const verify::Case& c, int threads) { expect(verify::Expected(c), threads); }

}  // namespace gdn::tests
