// Inverses of unit lower triangular matrices: a block a matrix, a thread a column, forward
// substitution in float32. A thread's column lies in local memory, where the elements of a row that
// the threads of a warp want lie side by side; a row of the matrix goes through shared memory.
#include "cuda/element.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace gdn::cuda {
namespace {

constexpr int kMaxSize = 256;

// sum over j <= m < i of row[m] x[m], in four sums by m mod 4. x is zero from j / 4 * 4 to j.
__device__ float product(const float* row, const float* x, int j, int i) {
  float sums[4] = {};
  int m = j / 4 * 4;
  for (; m + 4 <= i; m += 4) {
#pragma unroll
    for (int u = 0; u < 4; ++u) sums[u] = __fmaf_rn(row[m + u], x[m + u], sums[u]);
  }
  for (int u = 0; m < i; ++m, ++u) sums[u & 3] = __fmaf_rn(row[m], x[m], sums[u & 3]);
  return __fadd_rn(__fadd_rn(sums[0], sums[1]), __fadd_rn(sums[2], sums[3]));
}

// A row of the matrix left of the diagonal, to shared memory.
template <class T>
__device__ void load_row(const T* lower, int64_t stride, int i, float* row) {
  const int j = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (j < i) row[j] = to_float(lower[i * stride + j]);
  __syncthreads();
}

__device__ float rounded_to_bf16(float x, bool round) {
  return round ? __bfloat162float(__float2bfloat16_rn(x)) : x;
}

// Column j of the inverse: x_i = -sum over m < i of L_im x_m.
template <class T>
__device__ void invert_exact(const T* lower, int64_t stride, int n, float* row, float* x) {
  const int j = static_cast<int>(threadIdx.x);
  for (int i = 0; i < n; ++i) {
    load_row(lower, stride, i, row);
    x[i] = i == j ? 1.0f : 0.0f;
    if (j < i) x[i] = -product(row, x, j, i);
  }
}

// Newton's iteration: column j of P = strict_lower(L X), then of X - X P, of whose row i only row i
// of X is needed.
template <class T>
__device__ void invert_neumann(const T* lower, int64_t stride, int n, int64_t iterations,
                               bool bf16_steps, float* row, float* x) {
  const int j = static_cast<int>(threadIdx.x);
  float P[kMaxSize];
  for (int i = 0; i < n; ++i) x[i] = i == j ? 1.0f : 0.0f;
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    for (int i = 0; i < n; ++i) {
      load_row(lower, stride, i, row);
      P[i] = 0;
      if (j < i) P[i] = rounded_to_bf16(__fadd_rn(product(row, x, j, i), x[i]), bf16_steps);
    }
    for (int i = 0; i < n; ++i) {
      __syncthreads();
      if (j <= i) row[j] = x[i];
      __syncthreads();
      if (j < i) x[i] = rounded_to_bf16(__fsub_rn(x[i], product(row, P, j + 1, i + 1)), bf16_steps);
    }
  }
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
  if (p.method == SolveMethod::kExact) {
    invert_exact(lower, p.lower_row_stride, n, row, x);
  } else {
    invert_neumann(lower, p.lower_row_stride, n, p.iterations, p.bf16_steps, row, x);
  }
  for (int i = 0; i < n && j < n; ++i) inverse[i * p.inverse_row_stride + j] = from_float<T>(x[i]);
  if (p.residual == nullptr) return;
  if (j == 0) largest = 0;
  for (int i = 0; i < n; ++i) {
    load_row(lower, p.lower_row_stride, i, row);
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
  const int threads = static_cast<int>((problem.shape.K + kWarp - 1) / kWarp * kWarp);
  return with_element(problem.dtype, [&](auto element) {
    return launch(&solve_tril_kernel<decltype(element)>,
                  {problem.shape.sequences, threads, 0, stream.stream}, problem);
  });
}

}  // namespace gdn::cuda
