// l2norm and rms_norm_gated: a warp a row. A lane has runs of four elements, 32 runs side by side;
// the row is read once from memory and again from the cache.
#include "cuda/gates.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace gdn::cuda {
namespace {

constexpr int kRun = 4;
constexpr int kWarps = 8;  // of a block

// Whether the rows of a tensor may be accessed by whole runs.
template <class T>
__device__ bool by_runs(const T* row, int64_t D) {
  return D % kRun == 0 && is_aligned(row, kRun * static_cast<int64_t>(sizeof(T)));
}

// Calls body(first element, elements) for the lane's runs.
template <class Body>
__device__ void for_each_run(int64_t D, const Body& body) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t i = lane * kRun; i < D; i += kWarp * kRun) {
    body(i, static_cast<int>(D - i < kRun ? D - i : kRun));
  }
}

template <class T>
__device__ float sum_of_squares(const T* x, int64_t D) {
  const bool vectors = by_runs(x, D);
  float sum = 0;
  for_each_run(D, [&](int64_t i, int valid) {
    float part[kRun];
    load_run(x + i, valid, vectors, part);
#pragma unroll
    for (int j = 0; j < kRun; ++j) sum = __fmaf_rn(part[j], part[j], sum);
  });
  return sum_over_lanes<1, 16>(sum);
}

__device__ uint32_t row_of_warp() { return blockIdx.x * kWarps + threadIdx.x / kWarp; }

// row_offset() of problem.h by 32-bit divisions, which rows of a grid fit in.
__device__ int64_t offset_of(const int64_t (&extents)[3], const int64_t (&strides)[3],
                             uint32_t row) {
  const auto e1 = static_cast<uint32_t>(extents[1]), e2 = static_cast<uint32_t>(extents[2]);
  const uint32_t outer = row / e2, i2 = row - outer * e2;
  const uint32_t i0 = outer / e1, i1 = outer - i0 * e1;
  return i0 * strides[0] + i1 * strides[1] + i2 * strides[2];
}

template <class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    l2norm_kernel(const __grid_constant__ L2normProblem p) {
  const uint32_t row = row_of_warp();
  const int64_t D = p.shape.K;
  if (row >= p.shape.sequences) return;
  const T* x = reinterpret_cast<const T*>(p.x) + offset_of(p.extents, p.x_strides, row);
  const float factor = 1.0f / sqrtf(__fadd_rn(sum_of_squares(x, D), p.eps));
  const bool vectors = by_runs(x, D);
  with_element(p.y_dtype, [&](auto element) {
    using Y = decltype(element);
    Y* y = reinterpret_cast<Y*>(p.y) + offset_of(p.extents, p.y_strides, row);
    const bool y_vectors = by_runs(y, D);
    for_each_run(D, [&](int64_t i, int valid) {
      float part[kRun];
      load_run(x + i, valid, vectors, part);
#pragma unroll
      for (int j = 0; j < kRun; ++j) part[j] = __fmul_rn(part[j], factor);
      store_run(y + i, valid, y_vectors, part);
    });
  });
}

template <class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    rms_norm_gated_kernel(const __grid_constant__ RmsNormGatedProblem p) {
  const uint32_t row = row_of_warp();
  const int64_t D = p.shape.K;
  if (row >= p.shape.sequences) return;
  const T* x = reinterpret_cast<const T*>(p.x) + offset_of(p.extents, p.x_strides, row);
  const T* z = reinterpret_cast<const T*>(p.z) + offset_of(p.extents, p.z_strides, row);
  const float mean = sum_of_squares(x, D) / static_cast<float>(D);
  const float factor = 1.0f / sqrtf(__fadd_rn(mean, p.eps));
  const bool x_vectors = by_runs(x, D), z_vectors = by_runs(z, D);
  with_element(p.y_dtype, [&](auto element) {
    using Y = decltype(element);
    Y* y = reinterpret_cast<Y*>(p.y) + offset_of(p.extents, p.y_strides, row);
    const bool y_vectors = by_runs(y, D);
    for_each_run(D, [&](int64_t i, int valid) {
      float part[kRun], gate[kRun];
      load_run(x + i, valid, x_vectors, part);
      load_run(z + i, valid, z_vectors, gate);
#pragma unroll
      for (int j = 0; j < kRun; ++j) {
        const float weight = j < valid ? load_element(p.weight.at(i + j), p.weight.dtype) : 0.0f;
        part[j] = part[j] * factor * weight * silu(gate[j]);
      }
      store_run(y + i, valid, y_vectors, part);
    });
  });
}

// 32 bits of rows: the launcher refuses a grid that has more than 2^31 blocks.
Launch rows(int64_t count, const Stream& stream) {
  constexpr int64_t kMostRows = int64_t{1} << 32;
  const int64_t blocks = (count + kWarps - 1) / kWarps;
  return {count < kMostRows ? blocks : INT64_MAX, kWarps * kWarp, 0, stream.stream};
}

}  // namespace

Status l2norm(const L2normProblem& problem, const Stream& stream) {
  return with_element(problem.x_dtype, [&](auto element) {
    return launch(&l2norm_kernel<decltype(element)>, rows(problem.shape.sequences, stream),
                  problem);
  });
}

Status rms_norm_gated(const RmsNormGatedProblem& problem, const Stream& stream) {
  return with_element(problem.dtype, [&](auto element) {
    return launch(&rms_norm_gated_kernel<decltype(element)>, rows(problem.shape.sequences, stream),
                  problem);
  });
}

}  // namespace gdn::cuda
