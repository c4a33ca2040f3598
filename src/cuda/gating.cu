// The gating operator: a thread an element.
#include "cuda/gates.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace gdn::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    gating_kernel(const __grid_constant__ GatingProblem p, int64_t elements) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= elements) return;
  const int64_t heads = p.shape.value_heads, T = p.shape.max_length;
  const int64_t row = i / heads, head = i % heads;
  const Sequence s{row / T, 0, T};
  const int64_t t = row % T;
  const Gate gate = load_gate(p.gates, s, t, head);
  store_element(p.g.at(s, t, head), p.g.dtype, gate.g);
  if (p.beta.given()) store_element(p.beta.at(s, t, head), p.beta.dtype, gate.beta);
}

}  // namespace

Status gating(const GatingProblem& problem, const Stream& stream) {
  const int64_t elements = problem.shape.tokens * problem.shape.value_heads;
  return launch(&gating_kernel, {(elements + kThreads - 1) / kThreads, kThreads, 0, stream.stream},
                problem, elements);
}

}  // namespace gdn::cuda
