// l2norm and rms_norm_gated: 16 lanes a row, of which each has runs of 16 bytes, 16 runs side by
// side. A row is read once: it stays in registers as bits. Only one of more than 64 runs is read
// again, span by span.
#include <algorithm>

#include "cuda/dependent.cuh"
#include "cuda/gates.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/rows.cuh"

namespace gdn::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 16;                  // of a row
constexpr int kMostRuns = 4;                // of a lane in registers
constexpr int kGroups = kThreads / kLanes;  // rows side by side in a block

// Rows of a group, whose loads are all in flight: four runs of a lane where rows are whole.
constexpr int rows_of_group(int tensors, int runs, bool whole) {
  return whole ? std::max(1, 4 / (tensors * runs)) : 1;
}

// A lane's part of a span of a row, from element `at` on. kWhole: D is a multiple of a run, and
// runs are aligned. The order of a sum depends on neither kWhole nor kRuns.
template <class T, int kRuns, bool kWhole>
struct Span {
  static constexpr int kRun = Vector16<T>::kCount;
  static constexpr int kElements = kLanes * kRuns * kRun;
  static constexpr bool kIsRow = kWhole && kRuns < kMostRuns;  // none comes after it
  Vector16<T> runs[kRuns];

  static __device__ int64_t first(int64_t at, int run) {
    return at + (run * kLanes + static_cast<int>(threadIdx.x) % kLanes) * kRun;
  }
  // `end`: D, or 0 where there is no row.
  __device__ void load(const T* row, int64_t at, int64_t end) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const int64_t i = first(at, run);
      runs[run].bits = uint4{};
      if constexpr (kWhole) {
        if (i < end) runs[run].bits = *reinterpret_cast<const uint4*>(row + i);
      } else {
#pragma unroll
        for (int j = 0; j < kRun; ++j) {
          if (i + j < end) runs[run].element[j] = row[i + j];
        }
      }
    }
  }
  __device__ void get(int run, float (&x)[kRun]) const {
#pragma unroll
    for (int j = 0; j < kRun; ++j) x[j] = to_float(runs[run].element[j]);
  }
  __device__ float add_squares(float sum) const {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      float x[kRun];
      get(run, x);
#pragma unroll
      for (int j = 0; j < kRun; ++j) sum = __fmaf_rn(x[j], x[j], sum);
    }
    return sum;
  }
  template <class Y>
  static __device__ void store(Y* row, int64_t i, int64_t end, const float (&y)[kRun]) {
    if constexpr (kWhole) {
      if (i < end) store_whole_run(row + i, y);
    } else {
#pragma unroll
      for (int j = 0; j < kRun; ++j) {
        if (i + j < end) row[i + j] = from_float<Y>(y[j]);
      }
    }
  }
};

// The rows that a group has, kGroups apart; end 0 past the last one.
struct OwnRow {
  Rows::Place place;
  int64_t end;
};
template <int kRows>
__device__ OwnRow own_row(const Rows& rows, int r, int64_t D) {
  const uint32_t row = (blockIdx.x * kRows + r) * kGroups + threadIdx.x / kLanes;
  const bool exists = row < rows.count;
  return {rows.place(exists ? row : 0), exists ? D : 0};
}

// Adds the squares of a group's rows, which load(at) brings to x span by span. Returns where the
// last span begins, which stays there.
template <class Part, int kRows, class Load>
__device__ __forceinline__ int64_t add_squares(const Part (&x)[kRows], int64_t D, const Load& load,
                                               float (&sums)[kRows]) {
  int64_t at = 0;
  for (load(0);; load(at += Part::kElements)) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[r] = x[r].add_squares(sums[r]);
    if (Part::kIsRow || at + Part::kElements >= D) return at;
  }
}

// Stores y of a group's rows, backwards from the span that is there. Body(element of y, row, run, y
// of the run to be filled in).
template <class Part, int kRuns, int kRows, class Problem, class Load, class Body>
__device__ __forceinline__ void store_backwards(const Problem& p, const OwnRow (&own)[kRows],
                                                int64_t at, const Load& load, const Body& body) {
  with_element(p.y_dtype, [&](auto element) {
    using Y = decltype(element);
    for (;; load(at -= Part::kElements)) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        Y* to = reinterpret_cast<Y*>(p.y) + own[r].place.offset(p.y_strides);
#pragma unroll
        for (int run = 0; run < kRuns; ++run) {
          float y[Part::kRun];
          body(element, r, run, y);
          Part::store(to, Part::first(at, run), own[r].end, y);
        }
      }
      if (Part::kIsRow || at == 0) break;
    }
  });
}

template <class T, int kRuns, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    l2norm_kernel(const __grid_constant__ L2normProblem p, const __grid_constant__ Rows rows) {
  using Part = Span<T, kRuns, kWhole>;
  constexpr int kRows = rows_of_group(1, kRuns, kWhole);
  wait_for_kernel_before();
  const int64_t D = p.shape.K;
  OwnRow own[kRows];
  const T* from[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    own[r] = own_row<kRows>(rows, r, D);
    from[r] = reinterpret_cast<const T*>(p.x) + own[r].place.offset(p.x_strides);
  }
  Part x[kRows];
  const auto load = [&](int64_t at) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) x[r].load(from[r], at, own[r].end);
  };
  float factor[kRows] = {};
  const int64_t last = add_squares(x, D, load, factor);
#pragma unroll
  for (int r = 0; r < kRows; ++r) factor[r] = norm_factor(sum_over_lanes<1, 8>(factor[r]), p.eps);
  store_backwards<Part, kRuns>(p, own, last, load, [&](auto, int r, int run, auto& y) {
    x[r].get(run, y);
#pragma unroll
    for (int j = 0; j < Part::kRun; ++j) y[j] = __fmul_rn(y[j], factor[r]);
  });
}

template <int kRun, bool kWhole>
__device__ void load_weights(const FloatVector& weight, int64_t i, int64_t D, float (&x)[kRun]) {
  if constexpr (kWhole) {
    with_element(weight.dtype, [&](auto element) {
      using E = decltype(element);
      load_run(reinterpret_cast<const E*>(weight.data) + i, i < D ? kRun : 0, true, x);
    });
  } else {
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      x[j] = i + j < D ? load_element(weight.at(i + j), weight.dtype) : 0.0f;
    }
  }
}

template <class T, int kRuns, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    rms_norm_gated_kernel(const __grid_constant__ RmsNormGatedProblem p,
                          const __grid_constant__ Rows rows) {
  using Part = Span<T, kRuns, kWhole>;
  constexpr int kRows = rows_of_group(2, kRuns, kWhole);
  wait_for_kernel_before();
  const int64_t D = p.shape.K;
  OwnRow own[kRows];
  const T *x_row[kRows], *z_row[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    own[r] = own_row<kRows>(rows, r, D);
    x_row[r] = reinterpret_cast<const T*>(p.x) + own[r].place.offset(p.x_strides);
    z_row[r] = reinterpret_cast<const T*>(p.z) + own[r].place.offset(p.z_strides);
  }
  Part x[kRows], z[kRows];
  float weight[kRuns][Part::kRun];
  // The weight, which comes from a cache and is waited for, behind the rows.
  const auto load = [&](int64_t at) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      x[r].load(x_row[r], at, own[r].end);
      z[r].load(z_row[r], at, own[r].end);
    }
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      load_weights<Part::kRun, kWhole>(p.weight, Part::first(at, run), D, weight[run]);
    }
  };
  float factor[kRows] = {};
  const int64_t last = add_squares(x, D, load, factor);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float mean = sum_over_lanes<1, 8>(factor[r]) / static_cast<float>(D);
    factor[r] = norm_factor(mean, p.eps);
  }
  store_backwards<Part, kRuns>(p, own, last, load, [&](auto element, int r, int run, auto& y) {
    float gate[Part::kRun];
    x[r].get(run, y);
    z[r].get(run, gate);
#pragma unroll
    for (int j = 0; j < Part::kRun; ++j) {
      y[j] = y[j] * factor[r] * weight[run][j] * silu_to<decltype(element)>(gate[j]);
    }
  });
}

// Whether runs of `run` elements of all rows are aligned to their bytes, or to 16.
bool aligned(const std::byte* data, DType dtype, const int64_t (&strides)[3], int run) {
  const int64_t bytes = std::min<int64_t>(16, run * size_of(dtype));
  return is_aligned(data, bytes) && std::all_of(strides, strides + 3, [&](int64_t stride) {
           return stride * size_of(dtype) % bytes == 0;
         });
}

// Calls run(runs of a lane, whole).
template <class T, class Run>
Status with_span(int64_t D, bool whole, const Run& run) {
  const int64_t runs = (D + kLanes * Vector16<T>::kCount - 1) / (kLanes * Vector16<T>::kCount);
  if (!whole) return run(std::integral_constant<int, 1>(), std::false_type());
  if (runs == 1) return run(std::integral_constant<int, 1>(), std::true_type());
  if (runs == 2) return run(std::integral_constant<int, 2>(), std::true_type());
  return run(std::integral_constant<int, kMostRuns>(), std::true_type());
}

template <class Problem>
Status launch_rows(void (*kernel)(Problem, Rows), int rows_of_group, const Problem& problem,
                   const Device& device, const Stream& stream) {
  const int64_t count = problem.shape.sequences;
  const int64_t rows_of_block = int64_t{kGroups} * rows_of_group;
  // More rows than 32 bits count, those past the last one too, are more blocks than launch() takes.
  const int64_t blocks =
      count <= UINT32_MAX - rows_of_block ? (count + rows_of_block - 1) / rows_of_block : count;
  return launch(kernel, {blocks, kThreads, 0, stream.stream, starts_early(device)}, problem,
                Rows(count, problem.extents));
}

}  // namespace

Status l2norm(const L2normProblem& problem, const Device& device, const Stream& stream) {
  return with_element(problem.x_dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kRun = Vector16<T>::kCount;
    const bool whole = problem.shape.K % kRun == 0 &&
                       aligned(problem.x, problem.x_dtype, problem.x_strides, kRun) &&
                       aligned(problem.y, problem.y_dtype, problem.y_strides, kRun);
    return with_span<T>(problem.shape.K, whole, [&](auto runs, auto is_whole) {
      return launch_rows(&l2norm_kernel<T, runs(), is_whole()>,
                         rows_of_group(1, runs(), is_whole()), problem, device, stream);
    });
  });
}

Status rms_norm_gated(const RmsNormGatedProblem& problem, const Device& device,
                      const Stream& stream) {
  return with_element(problem.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kRun = Vector16<T>::kCount;
    const bool whole = problem.shape.K % kRun == 0 && problem.weight.stride == 1 &&
                       aligned(problem.x, problem.dtype, problem.x_strides, kRun) &&
                       aligned(problem.z, problem.dtype, problem.z_strides, kRun) &&
                       aligned(problem.y, problem.y_dtype, problem.y_strides, kRun) &&
                       is_aligned(problem.weight.data,
                                  std::min<int64_t>(16, kRun * size_of(problem.weight.dtype)));
    return with_span<T>(problem.shape.K, whole, [&](auto runs, auto is_whole) {
      return launch_rows(&rms_norm_gated_kernel<T, runs(), is_whole()>,
                         rows_of_group(2, runs(), is_whole()), problem, device, stream);
    });
  });
}

}  // namespace gdn::cuda
