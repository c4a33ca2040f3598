// Prefill in float32, for any K and V: plain and right. A block owns 32 V columns of a (sequence,
// value head) with their state in shared memory, and walks the sequence's chunks of 16 tokens:
// Gram matrices, forward substitution, output, state. Every block of a head repeats the Gram
// matrices and shares nothing. Sums over K run in one order, from 0 up.
#include "cuda/chunk_record.h"
#include "cuda/gates.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/resolve.cuh"

namespace gdn::cuda {
namespace {

constexpr int kChunk = 16;
constexpr int kColumns = static_cast<int>(kF32Columns);
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kStateStride = kColumns + 1;  // so that columns and rows are both free of conflicts
static_assert(kColumns == kWarp && kChunk * kChunk == kThreads && kChunk == 2 * kWarps);

__host__ __device__ constexpr int padded(int K) { return (K + 3) / 4 * 4; }
// Rows of k and q: 16-byte accesses of eight rows at a time are free of conflicts.
__host__ __device__ constexpr int row_stride(int K) { return (padded(K) + 7) / 8 * 8 + 4; }

// Shared memory of a block.
struct Shared {
  float *state, *k, *q;        // [K][kStateStride]; [kChunk][row_stride]
  float *A, *P;                // [kChunk][kChunk]
  float *with_k, *v_new;       // [kChunk][kColumns]: S k, then the residual; v_new
  float *g, *beta;             // [kChunk]
  float *from_start, *to_end;  // exp(G_i), exp(G_C - G_i)
  double* G;

  __host__ __device__ static constexpr int floats(int K) {
    return padded(K) * kStateStride + 2 * kChunk * row_stride(K) + 2 * kChunk * kChunk +
           2 * kChunk * kColumns + 4 * kChunk + 2 * kChunk;
  }
  __device__ Shared(float* memory, int K) {
    G = reinterpret_cast<double*>(memory);
    k = memory + 2 * kChunk;
    q = k + kChunk * row_stride(K);
    A = q + kChunk * row_stride(K);
    P = A + kChunk * kChunk;
    with_k = P + kChunk * kChunk;
    v_new = with_k + kChunk * kColumns;
    g = v_new + kChunk * kColumns;
    beta = g + kChunk;
    from_start = beta + kChunk;
    to_end = from_start + kChunk;
    state = to_end + kChunk;
  }
};

struct Block {
  const DeltaRuleProblem& p;
  const Shared& m;
  int K, V, v0;
  int64_t head, qk_head;
  int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;

  __device__ int64_t element(int v, int k) const {
    return head * V * K +
           (p.shape.layout == StateLayout::kVK ? int64_t{v} * K + k : int64_t{k} * V + v);
  }
  // Body(v, k) for the elements of the block's columns, neighbours in a slot by neighbouring
  // threads.
  template <class Body>
  __device__ void for_each_element(const Body& body) const {
    const int columns = V - v0 < kColumns ? V - v0 : kColumns;
    const bool vk = p.shape.layout == StateLayout::kVK;
    for (int i = static_cast<int>(threadIdx.x); i < columns * K; i += kThreads) {
      if (vk) {
        body(i / K, i % K);
      } else {
        body(i % columns, i / columns);
      }
    }
  }
  __device__ void load_state(const std::byte* slot, DType dtype) const {
    for (int i = static_cast<int>(threadIdx.x); i < padded(K) * kStateStride; i += kThreads) {
      m.state[i] = 0;
    }
    __syncthreads();
    if (slot == nullptr) return;
    for_each_element([&](int v, int k) {
      m.state[k * kStateStride + v] = load_element(slot, dtype, element(v0 + v, k));
    });
  }
  __device__ void store_state(std::byte* slot, DType dtype) const {
    if (slot == nullptr) return;
    for_each_element([&](int v, int k) {
      store_element(slot, dtype, m.state[k * kStateStride + v], element(v0 + v, k));
    });
  }
  __device__ void zero(const Sequence& s) const {
    for (int64_t t = warp; t < s.length; t += kWarps) {
      if (v0 + lane < V) store_element(p.out.at(s, t, head), p.out.dtype, 0, v0 + lane);
    }
  }

  // A row of k or q, zero past K and past the end of the sequence.
  __device__ void load_row(const TokenTensor& x, const Sequence& s, int64_t t, float* row) const {
    float sum = 0;
    for (int i = lane; i < row_stride(K); i += kWarp) {
      const float value =
          i < K && t < s.length ? load_element(x.at(s, t, qk_head), x.dtype, i) : 0.0f;
      row[i] = value;
      sum = __fmaf_rn(value, value, sum);
    }
    if (!p.use_qk_l2norm) return;
    const float factor = 1.0f / sqrtf(__fadd_rn(sum_over_lanes<1, 16>(sum), p.l2norm_eps));
    if (t >= s.length) return;
    for (int i = lane; i < row_stride(K); i += kWarp) row[i] = __fmul_rn(row[i], factor);
  }

  __device__ void load_chunk(const Sequence& s, int64_t t0) const {
    for (int i = warp; i < kChunk; i += kWarps) {
      load_row(p.k, s, t0 + i, m.k + i * row_stride(K));
      load_row(p.q, s, t0 + i, m.q + i * row_stride(K));
    }
    const int i = static_cast<int>(threadIdx.x);
    if (i < kChunk) {
      Gate gate{0, 0};
      if (t0 + i < s.length) gate = load_gate(p.gates, s, t0 + i, head);
      m.g[i] = gate.g < kLeastDecay ? kLeastDecay : gate.g;
      m.beta[i] = gate.beta;
    }
    __syncthreads();
    if (i < kChunk) {
      double sum = 0;
      for (int j = 0; j <= i; ++j) sum += static_cast<double>(m.g[j]);
      m.G[i] = sum;
    }
    __syncthreads();
    if (i < kChunk) {
      m.from_start[i] = exp_finite(static_cast<float>(m.G[i]));
      m.to_end[i] = exp_finite(static_cast<float>(m.G[kChunk - 1] - m.G[i]));
    }
  }

  // A and P: a thread an element of each.
  __device__ void gram() const {
    const int i = static_cast<int>(threadIdx.x) / kChunk;
    const int j = static_cast<int>(threadIdx.x) % kChunk;
    float kk = 0, qk = 0;
    for (int at = 0; at < padded(K); at += 4) {
      const float4 ki = *reinterpret_cast<const float4*>(m.k + i * row_stride(K) + at);
      const float4 kj = *reinterpret_cast<const float4*>(m.k + j * row_stride(K) + at);
      const float4 qi = *reinterpret_cast<const float4*>(m.q + i * row_stride(K) + at);
      kk = __fmaf_rn(ki.x, kj.x, kk), qk = __fmaf_rn(qi.x, kj.x, qk);
      kk = __fmaf_rn(ki.y, kj.y, kk), qk = __fmaf_rn(qi.y, kj.y, qk);
      kk = __fmaf_rn(ki.z, kj.z, kk), qk = __fmaf_rn(qi.z, kj.z, qk);
      kk = __fmaf_rn(ki.w, kj.w, kk), qk = __fmaf_rn(qi.w, kj.w, qk);
    }
    const float decay = i >= j ? exp_finite(static_cast<float>(m.G[i] - m.G[j])) : 0.0f;
    m.A[i * kChunk + j] = i > j ? m.beta[i] * decay * kk : 0.0f;
    m.P[i * kChunk + j] = i >= j ? decay * qk : 0.0f;
  }

  // S k and S q of tokens warp and warp + 8, for the lane's column.
  struct WithState {
    float k[2], q[2];
  };
  __device__ WithState with_state() const {
    WithState sums{};
    for (int at = 0; at < padded(K); at += 4) {
      float s[4];
#pragma unroll
      for (int u = 0; u < 4; ++u) s[u] = m.state[(at + u) * kStateStride + lane];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = (warp + r * kWarps) * row_stride(K) + at;
        const float4 k = *reinterpret_cast<const float4*>(m.k + row);
        const float4 q = *reinterpret_cast<const float4*>(m.q + row);
        sums.k[r] = __fmaf_rn(s[0], k.x, sums.k[r]), sums.q[r] = __fmaf_rn(s[0], q.x, sums.q[r]);
        sums.k[r] = __fmaf_rn(s[1], k.y, sums.k[r]), sums.q[r] = __fmaf_rn(s[1], q.y, sums.q[r]);
        sums.k[r] = __fmaf_rn(s[2], k.z, sums.k[r]), sums.q[r] = __fmaf_rn(s[2], q.z, sums.q[r]);
        sums.k[r] = __fmaf_rn(s[3], k.w, sums.k[r]), sums.q[r] = __fmaf_rn(s[3], q.w, sums.q[r]);
      }
    }
    return sums;
  }

  // v_new of the lane's column, by the first warp.
  __device__ void solve() const {
    float x[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      x[i] = m.with_k[i * kColumns + lane];
#pragma unroll
      for (int j = 0; j < i; ++j) x[i] = __fmaf_rn(-m.A[i * kChunk + j], x[j], x[i]);
      m.v_new[i * kColumns + lane] = x[i];
    }
  }

  // S <- exp(G_C) S + (exp(G_C - G_j) v_new_j)^T k_j.
  __device__ void update() const {
    float v[kChunk];
#pragma unroll
    for (int j = 0; j < kChunk; ++j) v[j] = m.to_end[j] * m.v_new[j * kColumns + lane];
    const float decay = m.from_start[kChunk - 1];
    for (int at = warp * 4; at < padded(K); at += kWarps * 4) {
      float s[4];
#pragma unroll
      for (int u = 0; u < 4; ++u) s[u] = decay * m.state[(at + u) * kStateStride + lane];
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        const float4 k = *reinterpret_cast<const float4*>(m.k + j * row_stride(K) + at);
        s[0] = __fmaf_rn(v[j], k.x, s[0]);
        s[1] = __fmaf_rn(v[j], k.y, s[1]);
        s[2] = __fmaf_rn(v[j], k.z, s[2]);
        s[3] = __fmaf_rn(v[j], k.w, s[3]);
      }
#pragma unroll
      for (int u = 0; u < 4; ++u) m.state[(at + u) * kStateStride + lane] = s[u];
    }
  }

  // The same token by token, each state stored.
  __device__ void update_and_store_each(int64_t n, int64_t t0, int64_t length,
                                        const Flag& flag) const {
    for (int t = 0; t < kChunk && t0 + t < length; ++t) {
      const float decay = exp_finite(m.g[t]);
      const float v = m.v_new[t * kColumns + lane];
      for (int k = warp; k < K; k += kWarps) {
        float& s = m.state[k * kStateStride + lane];
        s = __fmaf_rn(v, m.k[t * row_stride(K) + k], decay * s);
      }
      __syncthreads();
      store_state(final_slot_of(p, n, t0 + t, flag), p.final_state.dtype);
      __syncthreads();
    }
  }

  __device__ void walk_chunk(const Sequence& s, int64_t n, int64_t t0, const Flag& flag) const {
    const bool in_v = v0 + lane < V;
    load_chunk(s, t0);
    __syncthreads();
    gram();
    const WithState sums = with_state();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = warp + r * kWarps;
      const bool valid = in_v && t0 + i < s.length;
      const float v = valid ? load_element(p.v.at(s, t0 + i, head), p.v.dtype, v0 + lane) : 0.0f;
      m.with_k[i * kColumns + lane] =
          m.beta[i] * __fsub_rn(v, __fmul_rn(m.from_start[i], sums.k[r]));
    }
    __syncthreads();
    if (warp == 0) solve();
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = warp + r * kWarps;
      float out = __fmul_rn(m.from_start[i], sums.q[r]);
      for (int j = 0; j <= i; ++j) {
        out = __fmaf_rn(m.P[i * kChunk + j], m.v_new[j * kColumns + lane], out);
      }
      if (in_v && t0 + i < s.length) {
        store_element(p.out.at(s, t0 + i, head), p.out.dtype, p.scale * out, v0 + lane);
      }
    }
    if (p.stores_every_state()) {
      update_and_store_each(n, t0, s.length, flag);
    } else {
      update();
    }
    __syncthreads();
    const int64_t done = t0 + kChunk, every = p.checkpoint_every;
    if (every > 0 && done % every == 0 && done <= s.length) {
      store_state(checkpoint_of(p, n, done / every - 1, flag), p.checkpoints.dtype);
    }
  }
};

__global__ void __launch_bounds__(kThreads)
    chunk_f32_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag, uint32_t parts) {
  extern __shared__ float4 memory[];
  const Shape& shape = p.shape;
  const int K = static_cast<int>(shape.K), V = static_cast<int>(shape.V);
  const Shared shared(reinterpret_cast<float*>(memory), K);
  const uint32_t heads = static_cast<uint32_t>(shape.value_heads);
  const int64_t head = blockIdx.x / parts % heads, n = blockIdx.x / parts / heads;
  const Block block{p,
                    shared,
                    K,
                    V,
                    static_cast<int>(blockIdx.x % parts) * kColumns,
                    head,
                    head / (shape.value_heads / shape.heads)};
  if (n >= p.sequences.count) return block.zero(tail_of(p.sequences));
  const Sequence s = sequence_of(p.sequences, n, flag);
  const InitialState initial = initial_of(p, n, flag);
  if (initial.skip) return block.zero(s);
  block.load_state(initial.data, p.initial_state.dtype);
  __syncthreads();
  for (int64_t t0 = 0; t0 < s.length; t0 += kChunk) block.walk_chunk(s, n, t0, flag);
  if (!p.stores_every_state()) {
    block.store_state(final_slot_of(p, n, 0, flag), p.final_state.dtype);
  }
}

}  // namespace

Status chunk_f32(const DeltaRuleProblem& problem, const Device& device, const Stream& stream) {
  const Shape& shape = problem.shape;
  const size_t bytes =
      static_cast<size_t>(Shared::floats(static_cast<int>(shape.K))) * sizeof(float);
  if (bytes > static_cast<size_t>(device.shared_bytes_per_block)) {
    return {StatusCode::kUnsupported,
            "K = " + std::to_string(shape.K) + " needs more shared memory than the GPU has"};
  }
  const int64_t parts = (shape.V + kColumns - 1) / kColumns;
  // One sequence more for the rows past the last one.
  const int64_t sequences = shape.sequences + (problem.sequences.cu_seqlens.given() ? 1 : 0);
  return launch(&chunk_f32_kernel,
                {sequences * shape.value_heads * parts, kThreads, bytes, stream.stream}, problem,
                Flag{stream.out_of_range}, static_cast<uint32_t>(parts));
}

}  // namespace gdn::cuda
