// The gating operator: a thread an element, whose number is divided by 32-bit divisions where it
// fits: those of 64 bits would take longer than the gates.
#include "cuda/dependent.cuh"
#include "cuda/gates.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace gdn::cuda {
namespace {

constexpr int kThreads = 256;

template <class Index>
__global__ void __launch_bounds__(kThreads)
    gating_kernel(const __grid_constant__ GatingProblem p, Index elements) {
  wait_for_kernel_before();
  const Index i = Index{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= elements) return;
  const Index heads = static_cast<Index>(p.shape.value_heads);
  const Index T = static_cast<Index>(p.shape.max_length);
  const Index row = i / heads, batch = row / T;
  const auto head = static_cast<int64_t>(i - row * heads);
  const auto t = static_cast<int64_t>(row - batch * T);
  const Sequence s{static_cast<int64_t>(batch), 0, p.shape.max_length};
  const Gate gate = load_gate(p.gates, s, t, head);
  store_element(p.g.at(s, t, head), p.g.dtype, gate.g);
  if (p.beta.given()) store_element(p.beta.at(s, t, head), p.beta.dtype, gate.beta);
}

}  // namespace

Status gating(const GatingProblem& problem, const Device& device, const Stream& stream) {
  const int64_t elements = problem.shape.tokens * problem.shape.value_heads;
  const Launch how{(elements + kThreads - 1) / kThreads, kThreads, 0, stream.stream,
                   starts_early(device)};
  // The threads past the last element have numbers too.
  if (elements <= UINT32_MAX - kThreads) {
    return launch(&gating_kernel<uint32_t>, how, problem, static_cast<uint32_t>(elements));
  }
  return launch(&gating_kernel<uint64_t>, how, problem, static_cast<uint64_t>(elements));
}

}  // namespace gdn::cuda
