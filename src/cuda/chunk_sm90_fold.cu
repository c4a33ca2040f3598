// Of the context split (chunk_sm90_segments.h): the states that segments begin with, from the left
// to the right, in float32. A block has some rows of the state of a (sequence, value head).
#include "cuda/chunk_sm90_range.cuh"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/dependent.cuh"
#include "cuda/launch.h"

namespace gdn::cuda::sm90 {
namespace {

constexpr int kRows = 8;  // of the state, all of them in every thread: M is read once

// A thread has a column of M, of half its rows; the next M is on its way while this one is used.
template <int K>
struct FoldShared {
  float state[K][kRows];
  float sums[K][kRows];  // of the second halves
};

template <int K>
__global__ void __launch_bounds__(2 * K)
    fold_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag, const Layout layout,
                const Part part, std::byte* workspace) {
  constexpr int kHalf = K / 2;
  __shared__ __align__(16) FoldShared<K> m;
  const int64_t row_parts = p.shape.V / kRows;
  const int64_t row = blockIdx.x % row_parts * kRows;
  const int64_t head = blockIdx.x / row_parts % p.shape.value_heads;
  const int64_t n = blockIdx.x / row_parts / p.shape.value_heads;
  wait_for_kernel_before();
  const Range range = range_of(p, part, n, flag);
  if (!range.here || initial_of(p, n, flag).skip) return;
  const int64_t last = layout.segments.count(range.chunks()) - 1;
  if (last < 2) return;

  const int column = static_cast<int>(threadIdx.x) % K;
  const bool second = threadIdx.x >= K;
  const int64_t boundary = layout.segments.first_boundary(range.in_part(part));
  const auto state_rows = [&](int64_t segment) {
    return layout.boundaries.state(workspace, boundary + segment - 1, head) + row * K + column;
  };
  float next[kHalf], N[kRows];
  const auto fetch = [&](int64_t segment) {
    const float* from = layout.boundaries.transition(workspace, boundary + segment - 1, head) +
                        (second ? kHalf * K : 0) + column;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) next[i] = from[i * K];
  };
  const auto fetch_state = [&](int64_t segment) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) N[r] = state_rows(segment)[r * K];
  };
  const auto put = [](float(&to)[kRows], const float(&values)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; r += 4) {
      *reinterpret_cast<float4*>(to + r) = {values[r], values[r + 1], values[r + 2], values[r + 3]};
    }
  };
  fetch(2);
  if (!second) {
    fetch_state(1);
    put(m.state[column], N);
  }
  __syncthreads();
#pragma unroll 1
  for (int64_t segment = 2; segment <= last; ++segment) {
    float M[kHalf], sums[kRows] = {};
#pragma unroll
    for (int i = 0; i < kHalf; ++i) M[i] = next[i];
    if (segment < last) fetch(segment + 1);
    if (!second) fetch_state(segment);
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float* state = m.state[(second ? kHalf : 0) + i];
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] = __fmaf_rn(state[r], M[i], sums[r]);
    }
    if (second) put(m.sums[column], sums);
    __syncthreads();
    if (!second) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        N[r] = __fadd_rn(__fadd_rn(sums[r], m.sums[column][r]), N[r]);
        state_rows(segment)[r * K] = N[r];
      }
      put(m.state[column], N);
    }
    __syncthreads();
  }
}

}  // namespace

Status fold(const DeltaRuleProblem& problem, const Layout& layout, const Part& part,
            std::byte* workspace, const Stream& stream) {
  const Shape& shape = problem.shape;
  const int64_t blocks = shape.sequences * shape.value_heads * (shape.V / kRows);
  const auto run = [&](auto k) {
    constexpr int K = decltype(k)::value;
    return launch(&fold_kernel<K>, {blocks, 2 * K, 0, stream.stream, true}, problem,
                  Flag{stream.out_of_range}, layout, part, workspace);
  };
  return shape.K == 64 ? run(std::integral_constant<int, 64>())
                       : run(std::integral_constant<int, 128>());
}

}  // namespace gdn::cuda::sm90
