// Inverses of unit lower triangular matrices: a block a matrix, a thread a column, forward
// substitution in float32. A thread's column lies in local memory, where the elements of a row that
// the threads of a warp want lie side by side; a row of the matrix goes through shared memory.
#include "cuda/element.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace gdn::cuda {
namespace {

constexpr int kMaxSize = 256;

// sum over j <= m < i of row[m] x[m], in four sums by m mod 4.
__device__ float product(const float* row, const float* x, int j, int i) {
  float sums[4] = {};
  int m = j / 4 * 4;  // x is zero before j
  for (; m + 4 <= i; m += 4) {
#pragma unroll
    for (int u = 0; u < 4; ++u) sums[u] = __fmaf_rn(row[m + u], x[m + u], sums[u]);
  }
  for (int u = 0; m < i; ++m, ++u) sums[u & 3] = __fmaf_rn(row[m], x[m], sums[u & 3]);
  return __fadd_rn(__fadd_rn(sums[0], sums[1]), __fadd_rn(sums[2], sums[3]));
}

template <class T>
__global__ void __launch_bounds__(kMaxSize)
    solve_tril_kernel(const __grid_constant__ SolveTrilProblem p) {
  __shared__ float row[kMaxSize];
  __shared__ unsigned largest;  // residual, as the bits of its absolute value: NaN is above all
  const int n = static_cast<int>(p.shape.K), j = static_cast<int>(threadIdx.x);
  const int64_t matrix = blockIdx.x;
  const T* lower =
      reinterpret_cast<const T*>(p.lower) + row_offset(p.extents, p.lower_strides, matrix);
  T* inverse = reinterpret_cast<T*>(p.inverse) + row_offset(p.extents, p.inverse_strides, matrix);
  float x[kMaxSize];
  for (int i = 0; i < n; ++i) x[i] = i == j ? 1.0f : 0.0f;
  if (j == 0) largest = 0;
  for (int i = 0; i < n; ++i) {
    __syncthreads();
    if (j < i) row[j] = to_float(lower[i * p.lower_row_stride + j]);
    __syncthreads();
    if (j >= n) continue;
    if (j < i) x[i] = -product(row, x, j, i);
    inverse[i * p.inverse_row_stride + j] = from_float<T>(x[i]);
  }
  if (p.residual == nullptr) return;
  for (int i = 0; i < n; ++i) {
    __syncthreads();
    if (j < i) row[j] = to_float(lower[i * p.lower_row_stride + j]);
    __syncthreads();
    if (j >= i) continue;
    const float sum = __fadd_rn(product(row, x, j, i), x[i]);
    atomicMax(&largest, __float_as_uint(sum) & 0x7fffffffu);
  }
  __syncthreads();
  if (j != 0) return;
  reinterpret_cast<float*>(p.residual)[row_offset(p.extents, p.residual_strides, matrix)] =
      __uint_as_float(largest);
}

}  // namespace

Status solve_tril(const SolveTrilProblem& problem, const Stream& stream) {
  if (problem.method != SolveMethod::kExact) {
    return {StatusCode::kUnsupported, "method kNeumann on CUDA, expected kExact"};
  }
  const int threads = static_cast<int>((problem.shape.K + kWarp - 1) / kWarp * kWarp);
  return with_element(problem.dtype, [&](auto element) {
    return launch(&solve_tril_kernel<decltype(element)>,
                  {problem.shape.sequences, threads, 0, stream.stream}, problem);
  });
}

}  // namespace gdn::cuda
