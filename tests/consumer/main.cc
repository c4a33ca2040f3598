// Normalises a vector through the C++ API.
#include <gdn/gdn.h>

#include <cmath>
#include <cstdio>
#include <memory>
#ifdef WITH_OPENMP
#include <gdn/openmp.h>
#endif
#ifdef WITH_CUDA
#include <gdn/cuda.h>
#endif

int main() {
#ifdef WITH_CUDA
  // Wants no GPU; what is on the CPU is worked out there as ever.
  if (!gdn::install_cuda().ok()) return 1;
#endif
#ifdef WITH_OPENMP
  const std::unique_ptr<gdn::Executor> executor = gdn::make_openmp_executor(2);
#else
  const std::unique_ptr<gdn::Executor> executor = gdn::make_thread_executor(2);
#endif
  gdn::Context context{.executor = executor.get()};
  const float x[2] = {3, 4};
  float y[2] = {};
  gdn::L2normArgs args;
  args.x = {x, {1, 2}};
  args.y = {y, {1, 2}};
  const gdn::Status status = gdn::l2norm(context, args);
  std::printf("%s%g %g\n", status.message().c_str(), y[0], y[1]);
  return status.ok() && std::abs(y[0] - 0.6f) < 1e-6f && std::abs(y[1] - 0.8f) < 1e-6f ? 0 : 1;
}
