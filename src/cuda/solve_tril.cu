// Inverses of unit lower triangular matrices in float32. What a chunk needs, an exact inverse of at
// most 64 rows: a warp a matrix, which lies in shared memory and becomes its inverse there, 16 rows
// at a time by forward substitution. Everything else: a block a matrix, a thread a column, which
// lies in local memory, where the elements of a row that the threads of a warp want lie side by
// side; a row of the matrix goes through shared memory.
#include <algorithm>

#include "cuda/dependent.cuh"
#include "cuda/element.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/rows.cuh"

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
    solve_tril_kernel(const __grid_constant__ SolveTrilProblem p, const Rows matrices) {
  __shared__ float row[kMaxSize];
  __shared__ unsigned largest;  // residual, as the bits of its absolute value: NaN is above all
  wait_for_kernel_before();
  const int n = static_cast<int>(p.shape.K), j = static_cast<int>(threadIdx.x);
  const Rows::Place matrix = matrices.place(blockIdx.x);
  const T* lower = reinterpret_cast<const T*>(p.lower) + matrix.offset(p.lower_strides);
  T* inverse = reinterpret_cast<T*>(p.inverse) + matrix.offset(p.inverse_strides);
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
  reinterpret_cast<float*>(p.residual)[matrix.offset(p.residual_strides)] =
      __uint_as_float(largest);
}

constexpr int kTileSize = 64, kBlockRows = 16;

// A lane has the columns lane and lane + 32.
struct Tile {
  alignas(16) float rows[kTileSize][kTileSize];

  // Of L, columns m to m + 3 of rows block to block + 15, times those rows of x.
  template <int kColumns>
  __device__ void subtract_product(int block, int m, float (*x)[kBlockRows]) const {
    const int lane = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int r = 0; r < kBlockRows; ++r) {
      const float4 l = *reinterpret_cast<const float4*>(&rows[block + r][m]);
      const float factor[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int u = 0; u < 4; ++u) {
          x[c][r] = __fmaf_rn(-factor[u], rows[m + u][lane + c * kWarp], x[c][r]);
        }
      }
    }
  }

  // Rows block to block + 15 of the inverse, of which the tile has L left of the diagonal; those
  // above are done: X_I = L_II^-1 (E_I - sum over J < I of L_IJ X_J). With kColumns = 1 the block
  // is above row 32, and the lanes' second columns are zero.
  template <int kColumns>
  __device__ void invert_rows(int block) {
    constexpr int kLast = kColumns - 1;  // the columns that the diagonal goes through
    const int lane = static_cast<int>(threadIdx.x);
    float x[kColumns][kBlockRows];
#pragma unroll
    for (int r = 0; r < kBlockRows; ++r) {
      x[0][r] = 0;
      x[kLast][r] = block + r == lane + kLast * kWarp ? 1.0f : 0.0f;
    }
    if constexpr (kColumns == 1) {
      for (int m = 0; m < block; m += 4) subtract_product<1>(block, m, x);
    } else {
      for (int m = 0; m < kWarp; m += 4) subtract_product<1>(block, m, x);
      for (int m = kWarp; m < block; m += 4) subtract_product<2>(block, m, x);
    }
#pragma unroll
    for (int s = 0; s < kBlockRows; s += 4) {
#pragma unroll
      for (int r = s + 1; r < kBlockRows; ++r) {
        const float4 l = *reinterpret_cast<const float4*>(&rows[block + r][block + s]);
        const float factor[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
        for (int u = 0; u < 4 && s + u < r; ++u) {
#pragma unroll
          for (int c = 0; c < kColumns; ++c) x[c][r] = __fmaf_rn(-factor[u], x[c][s + u], x[c][r]);
        }
      }
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kBlockRows; ++r) {
      float* row = &rows[block + r][lane];
      row[0] = x[0][r];
      row[kWarp] = 0;
      // Zeros and ones also where infinity times zero made them NaN. Below the diagonal they stay
      // so, and what follows from them.
      const int diagonal = block + r - kLast * kWarp;
      row[kLast * kWarp] = lane < diagonal ? x[kLast][r] : lane == diagonal ? 1.0f : 0.0f;
    }
    __syncwarp();
  }
};

// kWhole: rows are whole runs of 16 bytes.
template <class T, bool kWhole>
__global__ void __launch_bounds__(kWarp)
    invert_tile_kernel(const __grid_constant__ SolveTrilProblem p, const Rows matrices) {
  constexpr int kRun = Vector16<T>::kCount, kRunsOfRow = kTileSize / kRun;
  constexpr int kRowsAtOnce = kWarp / kRunsOfRow;
  constexpr int kBatch = kTileSize / 2 / kRowsAtOnce;  // half a tile is loaded at a time
  __shared__ Tile tile;
  wait_for_kernel_before();
  const int n = static_cast<int>(p.shape.K), lane = static_cast<int>(threadIdx.x);
  const Rows::Place matrix = matrices.place(blockIdx.x);
  const T* lower = reinterpret_cast<const T*>(p.lower) + matrix.offset(p.lower_strides);
  T* inverse = reinterpret_cast<T*>(p.inverse) + matrix.offset(p.inverse_strides);
  const int first_row = lane / kRunsOfRow, column = lane % kRunsOfRow * kRun;

  lower += first_row * p.lower_row_stride + column;
  for (int row = first_row; row - first_row < n; row += kBatch * kRowsAtOnce) {
    float run[kBatch][kRun];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = row + i * kRowsAtOnce;
      load_run(lower, at < n ? at - column : 0, kWhole, run[i]);
      lower += kRowsAtOnce * p.lower_row_stride;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      store_run(&tile.rows[row + i * kRowsAtOnce][column], kRun, true, run[i]);
    }
  }
  __syncwarp();
  tile.invert_rows<1>(0);
  if (n > 16) tile.invert_rows<1>(16);
  for (int block = kWarp; block < n; block += kBlockRows) tile.invert_rows<2>(block);
  inverse += first_row * p.inverse_row_stride + column;
#pragma unroll 4
  for (int row = first_row; row < n; row += kRowsAtOnce) {
    float run[kRun];
    load_run(&tile.rows[row][column], kRun, true, run);
    if constexpr (kWhole) {
      if (column < n) store_whole_run(inverse, run);
    } else {
      store_run(inverse, n - column, false, run);
    }
    inverse += kRowsAtOnce * p.inverse_row_stride;
  }
}

template <class T>
Status launch_tile(const SolveTrilProblem& problem, const Rows& matrices, const Launch& how) {
  const auto whole = [&](const std::byte* data, const int64_t(&strides)[3], int64_t row_stride) {
    const auto runs = [](int64_t elements) { return elements % Vector16<T>::kCount == 0; };
    return is_aligned(data, 16) && runs(row_stride) && std::all_of(strides, strides + 3, runs);
  };
  return problem.shape.K % Vector16<T>::kCount == 0 &&
                 whole(problem.lower, problem.lower_strides, problem.lower_row_stride) &&
                 whole(problem.inverse, problem.inverse_strides, problem.inverse_row_stride)
             ? launch(&invert_tile_kernel<T, true>, how, problem, matrices)
             : launch(&invert_tile_kernel<T, false>, how, problem, matrices);
}

}  // namespace

Status solve_tril(const SolveTrilProblem& problem, const Device& device, const Stream& stream) {
  const bool tile = problem.method == SolveMethod::kExact && problem.shape.K <= kTileSize &&
                    problem.residual == nullptr;
  const int threads =
      tile ? kWarp : static_cast<int>((problem.shape.K + kWarp - 1) / kWarp * kWarp);
  const Launch how{problem.shape.sequences, threads, 0, stream.stream, starts_early(device)};
  const Rows matrices(problem.shape.sequences, problem.extents);
  return with_element(problem.dtype, [&](auto element) {
    using T = decltype(element);
    return tile ? launch_tile<T>(problem, matrices, how)
                : launch(&solve_tril_kernel<T>, how, problem, matrices);
  });
}

}  // namespace gdn::cuda
