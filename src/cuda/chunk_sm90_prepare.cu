// throw-away: plain preparation
#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/chunk_table.cuh"
#include "cuda/gates.cuh"
#include "cuda/dependent.cuh"
#include "cuda/launch.h"
#include "cuda/resolve.cuh"
#include "cuda/mma.cuh"
namespace gdn::cuda::sm90 {
namespace {
__global__ void slow(const __grid_constant__ DeltaRuleProblem p, const Flag flag, std::byte* ws) {
  __shared__ float k[64][130], L[64][65], kk[64][65];
  __shared__ double G[64]; __shared__ float beta[64], kn[64], qn[64], kp[64];
  wait_for_kernel_before();
  const int HV = p.shape.value_heads, K = p.shape.K; const int64_t number = blockIdx.x / HV; const int head = blockIdx.x % HV;
  const int qh = head / (HV / p.shape.heads);
  const ChunkTable table{p.sequences, 64};
  auto place = table.find(number);
  if (place.n >= p.sequences.count) return;
  const Sequence s = sequence_of(p.sequences, place.n, flag);
  const int64_t t0 = place.chunk * 64; if (t0 >= s.length) return;
  HeadRecord& r = reinterpret_cast<HeadRecord*>(ws)[number * HV + head];
  const int i = threadIdx.x; const bool valid = t0 + i < s.length;
  float kk2 = 0, qq2 = 0;
  for (int d = 0; d < K; ++d) { k[i][d] = valid ? load_element(p.k.at(s, t0 + i, qh), p.k.dtype, d) : 0.f; kk2 += k[i][d]*k[i][d]; float q = valid ? load_element(p.q.at(s, t0 + i, qh), p.q.dtype, d) : 0.f; qq2 += q*q; }
  Gate g{0,0}; if (valid) g = load_gate(p.gates, s, t0 + i, head);
  G[i] = g.g < kLeastDecay ? kLeastDecay : g.g; beta[i] = g.beta;
  kn[i] = p.use_qk_l2norm ? 1.0f/sqrtf(kk2 + p.l2norm_eps) : 1.f; qn[i] = p.use_qk_l2norm ? 1.0f/sqrtf(qq2 + p.l2norm_eps) : 1.f;
  float pw = power_of_two(sqrtf(kk2)); kp[i] = 1.0f / pw;
  __syncthreads();
  if (i == 0) for (int j = 1; j < 64; ++j) G[j] += G[j-1];
  __syncthreads();
  for (int j = 0; j < 64; ++j) {
    float a = 0, b = 0; for (int d = 0; d < K; ++d) { a += k[i][d]*k[j][d]; float q = valid ? load_element(p.q.at(s, t0 + i, qh), p.q.dtype, d) : 0.f; b += q*k[j][d]; }
    float D = i >= j ? exp_finite((float)(G[i]-G[j])) : 0.f;
    L[i][j] = i > j ? beta[i]*D*a*kn[i]*kn[j] : 0.f;
    *(__half*)(r.P + swizzled(i,j)) = __float2half(i >= j ? p.scale*D*b*qn[i]*kn[j] : 0.f);
  }
  __syncthreads();
  // column i of the inverse
  for (int row = 0; row < 64; ++row) { double x = row == i; for (int j = i; j < row; ++j) x -= (double)L[row][j]*kk[j][i]; kk[row][i] = row < i ? 0.f : x; }
  for (int row = 0; row < 64; ++row) { float t = kk[row][i]*beta[i]; __half h = __float2half(t); *(__half*)(r.T_high + swizzled(row,i)) = h; *(__half*)(r.T_low + swizzled(row,i)) = __float2half(t - __half2float(h)); }
  r.residual[i] = exp_finite((float)G[i])*kn[i]; r.output[i] = p.scale*exp_finite((float)G[i])*qn[i];
  r.update[i] = exp_finite((float)(G[63]-G[i]))*kn[i]*pw; r.k_power[i] = kp[i];
  if (i == 0) { r.decay = exp_finite((float)G[63]); r.T_power = r.P_power = 1; }
}
}
Status prepare(const DeltaRuleProblem& problem, std::byte* ws, const Stream& stream) {
  const ChunkTable table{problem.sequences, 64};
  return launch(&slow, {table.bound() * problem.shape.value_heads, 64, 0, stream.stream}, problem, Flag{stream.out_of_range}, ws);
}
}
