// The launchers: each puts the kernels of an operator on a stream, for a problem whose pointers are
// the device's. `out_of_range` is Context::out_of_range.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "cuda/chunk_sm90_layout.h"
#include "cuda/device.h"
#include "gdn/plan.h"
#include "gdn/status.h"
#include "problem.h"

namespace gdn::cuda {

struct Stream {
  cudaStream_t stream = nullptr;
  int32_t* out_of_range = nullptr;
};

Status recurrent(const DeltaRuleProblem& problem, const Device& device, const Stream& stream);
Status replay(const ReplayProblem& problem, const Device& device, const Stream& stream);
Status gating(const GatingProblem& problem, const Device& device, const Stream& stream);
Status l2norm(const L2normProblem& problem, const Device& device, const Stream& stream);
Status rms_norm_gated(const RmsNormGatedProblem& problem, const Device& device,
                      const Stream& stream);
Status causal_conv1d(const CausalConv1dProblem& problem, const Device& device,
                     const Stream& stream);
Status solve_tril(const SolveTrilProblem& problem, const Device& device, const Stream& stream);

// V columns that a block of the chunk kernels owns, unless all (chunk_wide.h): no sum runs over V,
// so they change no bit.
int64_t chunk_columns(const Shape& shape, bool tensor_cores);
// Whether the tensor-core kernels take the shape.
bool chunk_fits_tensor_cores(const Shape& shape);
size_t chunk_workspace(const Shape& shape);
Status chunk_f32(const DeltaRuleProblem& problem, const Device& device, const Stream& stream);
Status chunk_tensor_cores(const DeltaRuleProblem& problem, const Device& device,
                          std::byte* workspace, const Stream& stream);

// The same on Hopper.
sm90::Layout chunk_sm90_layout(const Shape& shape, const Device& device, bool checkpoints);
// Of a buffer of records, two of which are the workspace where one does not hold all. Tests set it
// lower, so that short calls take the way of long ones.
extern std::atomic<int64_t> sm90_record_bytes;
Status chunk_sm90(const DeltaRuleProblem& problem, const Device& device, std::byte* workspace,
                  const Stream& stream);

}  // namespace gdn::cuda
