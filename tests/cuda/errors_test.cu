// What goes wrong on a device has a name, and a call that was refused wrote nothing.
#include <gtest/gtest.h>

#include <cuda_runtime_api.h>

#include <vector>

#include "cuda/launch.h"
#include "device_image.h"
#include "gdn/ops.h"
#include "gdn/plan.h"

namespace gdn::tests {
namespace {

TEST(CudaErrors, HaveTheirNames) {
  EXPECT_EQ(cuda::status_of(cudaErrorInvalidValue).code(), StatusCode::kDeviceError);
  EXPECT_EQ(cuda::status_of(cudaErrorInvalidValue).message(),
            "cudaErrorInvalidValue: invalid argument");
  EXPECT_EQ(cuda::status_of(cudaErrorMemoryAllocation).code(), StatusCode::kOutOfMemory);
}

// A launch that CUDA refuses, with more threads than a block has.
__global__ void nothing_kernel() {}

TEST(CudaErrors, OfALaunchBecomeAStatusAndDoNotStay) {
  const Status status = cuda::launch(&nothing_kernel, {1, 100000, 0, nullptr});
  EXPECT_EQ(status.code(), StatusCode::kDeviceError);
  EXPECT_NE(status.message().find("cudaErrorInvalid"), std::string::npos) << status.message();
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(CudaErrors, AWorkspaceThatIsAbsentIsNamed) {
  constexpr int64_t T = 64, K = 128;
  std::vector<uint16_t> zeros(T * K);
  std::vector<float> g(T);
  ChunkArgs args(StateLayout::kVK);
  args.q = TensorView(zeros.data(), DType::kBF16, {1, T, 1, K});
  args.k = args.v = args.q;
  std::vector<uint16_t> out(T * K, 0xffff);
  args.out = TensorView(out.data(), DType::kBF16, {1, T, 1, K});
  args.g = {g.data(), {1, T, 1}};
  DeviceImage image;
  for (TensorView* view : {&args.q, &args.k, &args.v, &args.g}) image.add(view, false);
  image.add(&args.out, true);
  ASSERT_TRUE(image.place().ok());
  Context context;
  Plan plan;
  ASSERT_TRUE(gdn::plan(context, args, &plan).ok());
  if (plan.workspace_bytes == 0) GTEST_SKIP() << "this kernel needs no workspace";
  const Status status = chunk(context, args);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "gdn.chunk: workspace is absent, expected " +
                                  std::to_string(plan.workspace_bytes) + " bytes of device memory");
}

}  // namespace
}  // namespace gdn::tests
