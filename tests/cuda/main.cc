// Runs the tests on the kernels of the CUDA backend alone (GDN_KERNEL changes that).
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "cuda/table.h"
#include "gdn/cuda.h"
#include "on_device.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (!gdn::install_cuda().ok()) return 1;
  gdn::tests::install_on_device();
  const gdn::KernelInfo& kernel = gdn::cuda::kBackend.kernels()[0];
  if (!kernel.supported) {
    std::printf("no GPU of compute capability 8.0 or later\n");
    return 77;
  }
  setenv("GDN_KERNEL", std::string(kernel.name).c_str(), 0);
  return RUN_ALL_TESTS();
}
