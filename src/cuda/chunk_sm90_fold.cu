// Of the context split (chunk_sm90_segments.h): the states that segments begin with, from the left
// to the right, in float32. A block has some rows of the state of a (sequence, value head).
#include "cuda/chunk_sm90_range.cuh"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/dependent.cuh"
#include "cuda/launch.h"

namespace gdn::cuda::sm90 {
namespace {

// A thread has a column of a quarter of M's rows, for all rows of the block: every block of a head
// reads the whole of M, so rows are many. The next M is on its way while one is used. The quarters'
// sums meet in shared memory, where each thread takes its share of the rows.
constexpr int kQuarters = 4;

template <int K, int kRows>
struct FoldShared {
  float state[K][kRows];
  float sums[kQuarters][kRows][K];
};

template <int K, int kRows>
__global__ void __launch_bounds__(kQuarters* K)
    fold_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag, const Layout layout,
                const Part part, std::byte* workspace) {
  constexpr int kQuarter = K / kQuarters, kShare = kRows / kQuarters;
  __shared__ __align__(16) FoldShared<K, kRows> m;
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
  const int quarter = static_cast<int>(threadIdx.x) / K;
  const int64_t boundary = layout.segments.first_boundary(range.in_part(part));
  float next[kQuarter];
  const auto fetch = [&](int64_t segment) {
    const float* from = layout.boundaries.transition(workspace, boundary + segment - 1, head) +
                        quarter * kQuarter * K + column;
#pragma unroll
    for (int i = 0; i < kQuarter; ++i) next[i] = from[i * K];
  };
  // The thread's share of the state that a segment begins with, and of N.
  const int64_t share_offset = (row + quarter * kShare) * K + column;
  const auto state_of = [&](int64_t segment) {
    return layout.boundaries.state(workspace, boundary + segment - 1, head) + share_offset;
  };
  const auto from_zero_of = [&](int64_t segment) {
    return layout.boundaries.from_zero(workspace, boundary + segment - 1, head) + share_offset;
  };
  const auto put = [&](const float(&share)[kShare]) {
#pragma unroll
    for (int r = 0; r < kShare; r += 2) {
      *reinterpret_cast<float2*>(&m.state[column][quarter * kShare + r]) = {share[r], share[r + 1]};
    }
  };
  float share[kShare];
  fetch(1);
#pragma unroll
  for (int r = 0; r < kShare; ++r) share[r] = state_of(1)[r * K];
  put(share);
  __syncthreads();
#pragma unroll 1
  for (int64_t segment = 1; segment < last; ++segment) {
    float M[kQuarter], sums[kRows] = {};
#pragma unroll
    for (int i = 0; i < kQuarter; ++i) M[i] = next[i];
    if (segment + 1 < last) fetch(segment + 1);
#pragma unroll
    for (int r = 0; r < kShare; ++r) share[r] = from_zero_of(segment)[r * K];
#pragma unroll
    for (int i = 0; i < kQuarter; ++i) {
      const float* state = m.state[quarter * kQuarter + i];
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] = __fmaf_rn(state[r], M[i], sums[r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) m.sums[quarter][r][column] = sums[r];
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kShare; ++r) {
#pragma unroll
      for (int q = 0; q < kQuarters; ++q) {
        share[r] = __fadd_rn(share[r], m.sums[q][quarter * kShare + r][column]);
      }
      state_of(segment + 1)[r * K] = share[r];
    }
    put(share);
    __syncthreads();
  }
}

}  // namespace

Status fold(const DeltaRuleProblem& problem, const Device& device, const Layout& layout,
            const Part& part, std::byte* workspace, const Stream& stream) {
  const Shape& shape = problem.shape;
  const auto run = [&](auto k, auto rows) {
    constexpr int K = decltype(k)::value, kRows = decltype(rows)::value;
    const int64_t blocks = shape.sequences * shape.value_heads * (shape.V / kRows);
    return launch(&fold_kernel<K, kRows>, {blocks, kQuarters * K, 0, stream.stream, true}, problem,
                  Flag{stream.out_of_range}, layout, part, workspace);
  };
  const auto with_k = [&](auto rows) {
    return shape.K == 64 ? run(std::integral_constant<int, 64>(), rows)
                         : run(std::integral_constant<int, 128>(), rows);
  };
  // Half as many where there is a multiprocessor for each block. That changes no bit.
  const bool few = shape.sequences * shape.value_heads * (shape.V / 8) <= device.multiprocessors;
  return few ? with_k(std::integral_constant<int, 8>()) : with_k(std::integral_constant<int, 16>());
}

}  // namespace gdn::cuda::sm90
