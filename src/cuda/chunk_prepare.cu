// The first kernel of the chunk operator on tensor cores: what a chunk of 64 tokens needs that does
// not depend on the state (chunk_record.h). A block has a chunk and a q/k head: k and q to float16
// with a power of two a row, their Gram matrices, and for each of its value heads, two at a time,
// decays, the masked matrices and the exact inverse in float32, a thread a column.
#include "cuda/chunk_record.h"
#include "cuda/chunk_stages.h"
#include "cuda/chunk_table.cuh"
#include "cuda/gates.cuh"
#include "cuda/launch.h"
#include "cuda/mma.cuh"

namespace gdn::cuda {
namespace {

constexpr int kC = kRecordChunk;
constexpr int kThreads = 128;
constexpr int kPair = 64;            // threads of a value head
constexpr int kGramStride = kC + 4;  // floats
constexpr int kLanesPerRow = 8;

template <int K>
struct Shared {
  static constexpr int kRowStride = K + 8;  // halves: ldmatrix without conflicts
  union {
    struct {
      __half k[kC * kRowStride], q[kC * kRowStride];
    } rows;
    float system[2][kC * kGramStride];  // L, then its inverse, of the two heads in work
  };
  float kk[kC * kGramStride], qk[kC * kGramStride];
  float k_factor[kC], q_factor[kC];  // what rows are times, to be normalised and unscaled
  float G[2][kC], G_low[2][kC], beta[2][kC];
};

// The threads of one value head.
__device__ void sync_pair(int pair) {
  asm volatile("bar.sync %0, %1;" ::"r"(pair + 1), "n"(kPair) : "memory");
}

// The lane's four elements of row t of k or q, to float16 in shared memory and in the record.
template <class T, int K>
struct RowLoader {
  static constexpr int kLanes = K / 4;
  static constexpr int kRowsAtOnce = kThreads / kLanes;

  const DeltaRuleProblem& p;
  const Sequence& s;
  int64_t t0, head;
  int lane = static_cast<int>(threadIdx.x) % kLanes, first = static_cast<int>(threadIdx.x) / kLanes;

  __device__ void load(const TokenTensor& x, int row, float (&values)[4]) const {
    const T* from = reinterpret_cast<const T*>(x.at(s, t0 + row, head)) + lane * 4;
    const bool valid = t0 + row < s.length;
    load_run(from, valid ? 4 : 0, is_aligned(from, 8), values);
  }
  __device__ static float over_row(float x, bool largest) {
#pragma unroll
    for (int bit = 1; bit < kLanes; bit *= 2) {
      const float other = __shfl_xor_sync(kAllLanes, x, bit);
      x = largest ? fmaxf(x, other) : __fadd_rn(x, other);
    }
    return x;
  }
  __device__ void store(const float (&x)[4], int row, __half* shared, __half* record,
                        float* factor) const {
    float sum = 0, largest = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum = __fmaf_rn(x[i], x[i], sum);
      largest = fmaxf(largest, fabsf(x[i]));
    }
    sum = over_row(sum, false);
    const float power = power_of_two(over_row(largest, true));
    const float inverse = inverse_power(power);
    const uint2 packed = {pack_halves(x[0] * inverse, x[1] * inverse),
                          pack_halves(x[2] * inverse, x[3] * inverse)};
    *reinterpret_cast<uint2*>(shared + row * Shared<K>::kRowStride + lane * 4) = packed;
    *reinterpret_cast<uint2*>(record + row * K + lane * 4) = packed;
    if (lane != 0) return;
    const float norm = p.use_qk_l2norm ? 1.0f / sqrtf(__fadd_rn(sum, p.l2norm_eps)) : 1.0f;
    factor[row] = t0 + row < s.length ? power * norm : 0.0f;
  }
  __device__ void run(const TokenTensor& x, __half* shared, __half* record, float* factor) const {
    constexpr int kBatch = 4;  // rows in flight
    for (int row = first; row < kC; row += kRowsAtOnce * kBatch) {
      float values[kBatch][4];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) load(x, row + i * kRowsAtOnce, values[i]);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        store(values[i], row + i * kRowsAtOnce, shared, record, factor);
      }
    }
  }
};

// k k^T and q k^T of the scaled rows: a warp has 16 rows of both.
template <int K>
__device__ void gram(Shared<K>& m) {
  constexpr int kStride = Shared<K>::kRowStride;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float kk[kC / 8][4] = {}, qk[kC / 8][4] = {};
  // Of a 16 x 16 A operand, and of two 8 x 16 B operands.
  const int a_row = warp * 16 + lane % 16, a_column = lane / 16 * 8;
  const int b_row = lane / 16 * 8 + lane % 8, b_column = lane / 8 % 2 * 8;
#pragma unroll
  for (int step = 0; step < K / 16; ++step) {
    MatrixA k, q;
    load_matrices(shared_address(m.rows.k + a_row * kStride + step * 16 + a_column), k.x);
    load_matrices(shared_address(m.rows.q + a_row * kStride + step * 16 + a_column), q.x);
#pragma unroll
    for (int pair = 0; pair < kC / 16; ++pair) {
      uint32_t b[4];
      load_matrices(shared_address(m.rows.k + (pair * 16 + b_row) * kStride + step * 16 + b_column),
                    b);
      multiply_add(kk[2 * pair], k, b[0], b[1]);
      multiply_add(kk[2 * pair + 1], k, b[2], b[3]);
      multiply_add(qk[2 * pair], q, b[0], b[1]);
      multiply_add(qk[2 * pair + 1], q, b[2], b[3]);
    }
  }
#pragma unroll
  for (int tile = 0; tile < kC / 8; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = (warp * 16 + half * 8 + lane / 4) * kGramStride + tile * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(m.kk + at) = {kk[tile][2 * half], kk[tile][2 * half + 1]};
      *reinterpret_cast<float2*>(m.qk + at) = {qk[tile][2 * half], qk[tile][2 * half + 1]};
    }
  }
}

// A value head in work by a pair of warps.
template <int K>
struct HeadWork {
  Shared<K>& m;
  const DeltaRuleProblem& p;
  int pair, thread;  // which, and of its 64 threads
  std::byte* record;
  float* L;

  __device__ HeadWork(Shared<K>& shared, const DeltaRuleProblem& problem, std::byte* head_record)
      : m(shared),
        p(problem),
        pair(static_cast<int>(threadIdx.x) / kPair),
        thread(static_cast<int>(threadIdx.x) % kPair),
        record(head_record),
        L(shared.system[pair]) {}

  __device__ float* vector(RecordVector which) const {
    return reinterpret_cast<float*>(record + 3 * ChunkRecords::kMatrixBytes +
                                    static_cast<int64_t>(which) * ChunkRecords::kVectorBytes);
  }
  __device__ __half* matrix(int which) const {
    return reinterpret_cast<__half*>(record + which * ChunkRecords::kMatrixBytes);
  }

  // Gates, and the running sum of g in double as a sum of two floats: a thread a token.
  __device__ void gates(const Sequence& s, int64_t t0, int64_t head) const {
    __shared__ double sums[2][2];
    Gate gate{0, 0};
    if (t0 + thread < s.length) gate = load_gate(p.gates, s, t0 + thread, head);
    double sum = static_cast<double>(gate.g < kLeastDecay ? kLeastDecay : gate.g);
    const int lane = thread % kWarp, warp = thread / kWarp;
#pragma unroll
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const double before = __shfl_up_sync(kAllLanes, sum, distance);
      if (lane >= distance) sum += before;
    }
    if (lane == kWarp - 1) sums[pair][warp] = sum;
    sync_pair(pair);
    if (warp == 1) sum += sums[pair][0];
    const float high = static_cast<float>(sum);
    m.G[pair][thread] = high;
    m.G_low[pair][thread] = static_cast<float>(sum - static_cast<double>(high));
    m.beta[pair][thread] = gate.beta;
    sync_pair(pair);
  }
  // exp(G_i - G_j).
  __device__ float decay(int i, int j) const {
    return exp_finite(__fadd_rn(__fsub_rn(m.G[pair][i], m.G[pair][j]),
                                __fsub_rn(m.G_low[pair][i], m.G_low[pair][j])));
  }

  // Eight lanes a row: elements 4 lane and 32 + 4 lane.
  template <class Body>
  __device__ void for_each_row(const Body& body) const {
    const int lane = thread % kLanesPerRow;
    for (int i = thread / kLanesPerRow; i < kC; i += kPair / kLanesPerRow) body(i, lane * 4);
  }
  __device__ static float row_power(const float (&x)[8]) {
    float largest = 0;
#pragma unroll
    for (int e = 0; e < 8; ++e) largest = fmaxf(largest, fabsf(x[e]));
#pragma unroll
    for (int bit = 1; bit < kLanesPerRow; bit *= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, bit));
    }
    return power_of_two(largest);
  }
  __device__ static void store_halves(__half* row, int at, const float (&x)[8]) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      *reinterpret_cast<uint2*>(row + at + part * 32) = {
          pack_halves(x[4 * part], x[4 * part + 1]), pack_halves(x[4 * part + 2], x[4 * part + 3])};
    }
  }

  // L to shared memory, P to the record, and the vectors.
  __device__ void masked_matrices() const {
    const float last = m.G[pair][kC - 1], last_low = m.G_low[pair][kC - 1];
    for_each_row([&](int i, int at) {
      const float beta = m.beta[pair][i], ki = m.k_factor[i], qi = m.q_factor[i];
      float masked[8];
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        if (part == 1 && i < kC / 2) {  // above the diagonal, for all rows of the warp
          *reinterpret_cast<float4*>(L + i * kGramStride + at + 32) = {0, 0, 0, 0};
          masked[4] = masked[5] = masked[6] = masked[7] = 0;
          continue;
        }
        const float4 kk = *reinterpret_cast<const float4*>(m.kk + i * kGramStride + at + part * 32);
        const float4 qk = *reinterpret_cast<const float4*>(m.qk + i * kGramStride + at + part * 32);
        const float k4[4] = {kk.x, kk.y, kk.z, kk.w}, q4[4] = {qk.x, qk.y, qk.z, qk.w};
        float row[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int j = at + part * 32 + e;
          const float d = i >= j ? decay(i, j) : 0.0f;
          row[e] = i > j ? beta * d * (k4[e] * ki * m.k_factor[j]) : 0.0f;
          masked[4 * part + e] = i >= j ? p.scale * d * (q4[e] * qi * m.k_factor[j]) : 0.0f;
        }
        *reinterpret_cast<float4*>(L + i * kGramStride + at + part * 32) = {row[0], row[1], row[2],
                                                                            row[3]};
      }
      const float power = row_power(masked), inverse = inverse_power(power);
#pragma unroll
      for (int e = 0; e < 8; ++e) masked[e] *= inverse;
      store_halves(matrix(2) + i * kC, at, masked);
      if (at != 0) return;
      const float from_start = exp_finite(__fadd_rn(m.G[pair][i], m.G_low[pair][i]));
      const float to_end = exp_finite(
          __fadd_rn(__fsub_rn(last, m.G[pair][i]), __fsub_rn(last_low, m.G_low[pair][i])));
      vector(RecordVector::kStateToResidual)[i] = from_start * ki;
      vector(RecordVector::kStateToOutput)[i] = p.scale * from_start * qi * inverse;
      vector(RecordVector::kOutput)[i] = power;
      vector(RecordVector::kToState)[i] = to_end * ki;
      vector(RecordVector::kDecay)[i] = exp_finite(__fadd_rn(last, last_low));
    });
  }

  // The inverse of I + L, a column a thread, in place.
  __device__ void invert() const {
    float x[kC];
    const int j = thread;
    const bool late = j >= kWarp;  // the pair's second warp: zeros above row 32
#pragma unroll
    for (int i = 0; i < kC; ++i) {
      float sums[4] = {};
      const float* row = L + i * kGramStride;
      const auto add = [&](int at) {
        const float4 l = *reinterpret_cast<const float4*>(row + at);
        sums[0] = __fmaf_rn(l.x, x[at], sums[0]);
        if (at + 1 < i) sums[1] = __fmaf_rn(l.y, x[at + 1], sums[1]);
        if (at + 2 < i) sums[2] = __fmaf_rn(l.z, x[at + 2], sums[2]);
        if (at + 3 < i) sums[3] = __fmaf_rn(l.w, x[at + 3], sums[3]);
      };
      if (!late) {
#pragma unroll
        for (int at = 0; at < (i < kWarp ? i : kWarp); at += 4) add(at);
      }
#pragma unroll
      for (int at = kWarp; at < i; at += 4) add(at);
      const float sum = __fadd_rn(__fadd_rn(sums[0], sums[1]), __fadd_rn(sums[2], sums[3]));
      x[i] = i == j ? 1.0f : i > j ? -sum : 0.0f;
    }
    sync_pair(pair);
#pragma unroll
    for (int i = 0; i < kC; ++i) L[i * kGramStride + j] = x[i];
  }

  // T diag(beta) to the record, as a sum of two float16 matrices.
  __device__ void store_inverse() const {
    for_each_row([&](int i, int at) {
      float x[8], low[8];
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const float4 t = *reinterpret_cast<const float4*>(L + i * kGramStride + at + part * 32);
        const float4 b = *reinterpret_cast<const float4*>(m.beta[pair] + at + part * 32);
        x[4 * part] = t.x * b.x;
        x[4 * part + 1] = t.y * b.y;
        x[4 * part + 2] = t.z * b.z;
        x[4 * part + 3] = t.w * b.w;
      }
      const float power = row_power(x), inverse = inverse_power(power);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        x[e] *= inverse;
        low[e] = x[e] - __half2float(__float2half_rn(x[e]));
      }
      store_halves(matrix(0) + i * kC, at, x);
      store_halves(matrix(1) + i * kC, at, low);
      if (at == 0) vector(RecordVector::kSolved)[i] = power;
    });
  }
};

template <class T, int K>
__global__ void __launch_bounds__(kThreads)
    prepare_kernel(const __grid_constant__ DeltaRuleProblem p, const Flag flag,
                   const ChunkRecords records, std::byte* workspace) {
  extern __shared__ float4 memory[];
  Shared<K>& m = *reinterpret_cast<Shared<K>*>(memory);
  const Shape& shape = p.shape;
  const int64_t heads = shape.heads;
  const int64_t number = blockIdx.x / heads, head = blockIdx.x % heads;
  const ChunkTable table{p.sequences, kC};
  const ChunkTable::Place place = table.find(number);
  if (place.n >= p.sequences.count) return;
  const Sequence s = sequence_of(p.sequences, place.n, flag);
  const int64_t t0 = place.chunk * kC;
  if (t0 >= s.length) return;

  auto* record_k =
      reinterpret_cast<__half*>(workspace + (number * heads + head) * records.group_bytes());
  const RowLoader<T, K> loader{p, s, t0, head};
  loader.run(p.k, m.rows.k, record_k, m.k_factor);
  loader.run(p.q, m.rows.q, record_k + kC * K, m.q_factor);
  __syncthreads();
  gram<K>(m);
  __syncthreads();  // the rows' memory is now that of the systems

  const int64_t group = shape.value_heads / heads;
  for (int64_t h = threadIdx.x / kPair; h < group; h += kThreads / kPair) {
    const int64_t value_head = head * group + h;
    const HeadWork<K> work(
        m, p,
        workspace + records.head_begin() +
            (number * shape.value_heads + value_head) * ChunkRecords::kHeadBytes);
    work.gates(s, t0, value_head);
    work.masked_matrices();
    sync_pair(work.pair);
    work.invert();
    sync_pair(work.pair);
    work.store_inverse();
    sync_pair(work.pair);
  }
}

}  // namespace

Status prepare_chunks(const DeltaRuleProblem& problem, std::byte* workspace, const Stream& stream) {
  const ChunkRecords records(problem.shape);
  const ChunkTable table{problem.sequences, kC};
  const auto run = [&](auto element, auto k) {
    constexpr int K = decltype(k)::value;
    return launch(&prepare_kernel<decltype(element), K>,
                  {table.bound() * problem.shape.heads, kThreads, sizeof(Shared<K>), stream.stream},
                  problem, Flag{stream.out_of_range}, records, workspace);
  };
  const auto with_k = [&](auto element) {
    return problem.shape.K == 64 ? run(element, std::integral_constant<int, 64>())
                                 : run(element, std::integral_constant<int, 128>());
  };
  return problem.shape.dtype == DType::kBF16 ? with_k(__nv_bfloat16()) : with_k(__half());
}

}  // namespace gdn::cuda
