#include "peak.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Instruction sets are named function by function, as in the library: nothing else of this file is
// compiled for them.
#if defined(__x86_64__)
#define GDN_TARGET(isa) __attribute__((target(isa)))
#define GDN_VECTOR_REGISTER "v"
#else
#define GDN_TARGET(isa)
#define GDN_VECTOR_REGISTER "w"
#endif

// The accumulators: at least (instructions per cycle) x (cycles an instruction takes), and no more
// than registers hold.
#define GDN_12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define GDN_20(X) GDN_12(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19)

// The asm statements hide where values come from and that nobody uses them; the compiler would
// otherwise fold equal chains, or drop them.
#define GDN_HIDE(x) asm volatile("" : "+" GDN_VECTOR_REGISTER(x));
#define GDN_DECLARE(i) \
  auto x##i = z;       \
  GDN_HIDE(x##i)
#define GDN_STEP(i) x##i = GDN_INSTRUCTION(x##i);
#define GDN_KEEP(i) GDN_HIDE(x##i)

namespace gdn::benchmarks {
namespace {

#if defined(__x86_64__)

GDN_TARGET("avx512f") void fma_avx512(long steps) {
  __m512 y = _mm512_set1_ps(0.999f), z = _mm512_set1_ps(0.001f);
  GDN_HIDE(y)
  GDN_HIDE(z)
  GDN_20(GDN_DECLARE)
#define GDN_INSTRUCTION(x) _mm512_fmadd_ps(x, y, z)
  for (long i = 0; i < steps; ++i) {
    GDN_20(GDN_STEP)
  }
#undef GDN_INSTRUCTION
  GDN_20(GDN_KEEP)
}

GDN_TARGET("avx512f,avx512bf16") void dot_avx512_bf16(long steps) {
  __m512i pairs = _mm512_set1_epi32(0x3f003f00);  // 0.5, 0.5
  __m512 z = _mm512_set1_ps(0.001f);
  GDN_HIDE(pairs) GDN_HIDE(z) GDN_20(GDN_DECLARE) const auto y = (__m512bh)pairs;
#define GDN_INSTRUCTION(x) _mm512_dpbf16_ps(x, y, y)
  for (long i = 0; i < steps; ++i) {
    GDN_20(GDN_STEP)
  }
#undef GDN_INSTRUCTION
  GDN_20(GDN_KEEP)
}

// Products into four tiles of zeros, which take as long as any others; four every eight steps, for
// they take eight times as long as a step of vectors. In asm, as in the library
// (amx_tile-inl.h); run only where the kernel of that name may be.
void dot_amx_bf16(long steps) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  asm volatile("ldtilecfg %0" : : "m"(config));  // clears the tiles
  for (long i = 0; i < steps; i += 8) {
    asm volatile(
        "tdpbf16ps %tmm6, %tmm4, %tmm0\n\ttdpbf16ps %tmm7, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm6, %tmm5, %tmm2\n\ttdpbf16ps %tmm7, %tmm5, %tmm3");
  }
  asm volatile("tilerelease");
}

GDN_TARGET("avx2,fma") void fma_avx2(long steps) {
  __m256 y = _mm256_set1_ps(0.999f), z = _mm256_set1_ps(0.001f);
  GDN_HIDE(y)
  GDN_HIDE(z)
  GDN_12(GDN_DECLARE)
#define GDN_INSTRUCTION(x) _mm256_fmadd_ps(x, y, z)
  for (long i = 0; i < steps; ++i) {
    GDN_12(GDN_STEP)
  }
#undef GDN_INSTRUCTION
  GDN_12(GDN_KEEP)
}

void multiply_add_baseline(long steps) {
  __m128 y = _mm_set1_ps(0.999f), z = _mm_set1_ps(0.001f);
  GDN_HIDE(y)
  GDN_HIDE(z)
  GDN_12(GDN_DECLARE)
#define GDN_INSTRUCTION(x) _mm_add_ps(_mm_mul_ps(x, y), z)
  for (long i = 0; i < steps; ++i) {
    GDN_12(GDN_STEP)
  }
#undef GDN_INSTRUCTION
  GDN_12(GDN_KEEP)
}

constexpr ComputeProbe kAvx512{"AVX-512 fp32 FMA", 20 * 16 * 2, &fma_avx512};
constexpr ComputeProbe kAvx512Bf16{"AVX-512 bf16 dot", 20 * 16 * 4, &dot_avx512_bf16};
constexpr ComputeProbe kAmxBf16{"AMX bf16 dot", 4 * 16 * 16 * 64 / 8, &dot_amx_bf16};
constexpr ComputeProbe kAvx2{"AVX2 fp32 FMA", 12 * 8 * 2, &fma_avx2};
constexpr ComputeProbe kBaseline{"SSE2 fp32 multiply, add", 12 * 4 * 2, &multiply_add_baseline};

#elif defined(__aarch64__)

void fma_neon(long steps) {
  float32x4_t y = vdupq_n_f32(0.999f), z = vdupq_n_f32(0.001f);
  GDN_HIDE(y)
  GDN_HIDE(z)
  GDN_20(GDN_DECLARE)
#define GDN_INSTRUCTION(x) vfmaq_f32(z, x, y)
  for (long i = 0; i < steps; ++i) {
    GDN_20(GDN_STEP)
  }
#undef GDN_INSTRUCTION
  GDN_20(GDN_KEEP)
}

constexpr ComputeProbe kBaseline{"NEON fp32 FMA", 20 * 4 * 2, &fma_neon};

#endif

// Memory. `zero` is hidden, so that the exclusive or, which changes nothing, is done.
constexpr size_t kLine = 64;
constexpr size_t kAhead = 4096;  // bytes that a prefetch runs ahead

#define GDN_MEMORY_LOOP(function, isa, Vector, load, combine, store, prefetch) \
  GDN_TARGET(isa) void function(std::byte* p, size_t bytes) {                  \
    Vector zero{};                                                             \
    GDN_HIDE(zero)                                                             \
    for (size_t i = 0; i < bytes; i += kLine) {                                \
      if (prefetch) __builtin_prefetch(p + i + kAhead, 1);                     \
      for (size_t j = 0; j < kLine; j += sizeof(Vector)) {                     \
        auto* at = reinterpret_cast<Vector*>(p + i + j);                       \
        store(at, combine(load(at), zero));                                    \
      }                                                                        \
    }                                                                          \
  }

#if defined(__x86_64__)

#define GDN_MEMORY_LOOPS(set, isa, Vector, load, combine, store, stream)              \
  GDN_MEMORY_LOOP(plain_##set, isa, Vector, load, combine, store, false)              \
  GDN_MEMORY_LOOP(prefetched_##set, isa, Vector, load, combine, store, true)          \
  GDN_MEMORY_LOOP(streamed_##set, isa, Vector, load, combine, stream, false)          \
  constexpr std::array<MemoryProbe, 3> k_##set = {{{"plain", &plain_##set},           \
                                                   {"prefetched", &prefetched_##set}, \
                                                   {"non-temporal", &streamed_##set}}};

GDN_MEMORY_LOOPS(avx512, "avx512f", __m512i, _mm512_load_si512, _mm512_xor_si512,
                 _mm512_store_si512, _mm512_stream_si512)
GDN_MEMORY_LOOPS(avx2, "avx2", __m256i, _mm256_load_si256, _mm256_xor_si256, _mm256_store_si256,
                 _mm256_stream_si256)
GDN_MEMORY_LOOPS(sse2, "sse2", __m128i, _mm_load_si128, _mm_xor_si128, _mm_store_si128,
                 _mm_stream_si128)

#elif defined(__aarch64__)

#define GDN_LOAD(at) vld1q_u32(reinterpret_cast<const uint32_t*>(at))
#define GDN_STORE(at, x) vst1q_u32(reinterpret_cast<uint32_t*>(at), x)
GDN_MEMORY_LOOP(plain_neon, "", uint32x4_t, GDN_LOAD, veorq_u32, GDN_STORE, false)
GDN_MEMORY_LOOP(prefetched_neon, "", uint32x4_t, GDN_LOAD, veorq_u32, GDN_STORE, true)
constexpr std::array<MemoryProbe, 2> k_neon = {
    {{"plain", &plain_neon}, {"prefetched", &prefetched_neon}}};

#endif

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs body(task) for every task, on the executor's threads where there is one.
template <class Body>
void run_tasks(Executor* executor, int64_t count, const Body& body) {
  if (executor == nullptr) {
    for (int64_t task = 0; task < count; ++task) body(task);
    return;
  }
  executor->run(
      count, [](void* closure, int64_t task, int) { (*static_cast<const Body*>(closure))(task); },
      const_cast<Body*>(&body));
}

}  // namespace

const ComputeProbe* fp32_probe(std::string_view kernel) {
#if defined(__x86_64__)
  if (kernel.starts_with("avx512") || kernel == "amx_bf16") return &kAvx512;
  if (kernel == "avx2") return &kAvx2;
  if (kernel == "scalar") return &kBaseline;
#elif defined(__aarch64__)
  if (kernel == "neon" || kernel == "scalar") return &kBaseline;
#endif
  (void)kernel;
  return nullptr;
}

const ComputeProbe* bf16_probe(std::string_view kernel) {
#if defined(__x86_64__)
  if (kernel == "avx512_bf16" || kernel == "avx512_zen4") return &kAvx512Bf16;
#if !defined(GDN_EMULATE_AMX)
  if (kernel == "amx_bf16") return &kAmxBf16;
#endif
#endif
  (void)kernel;
  return nullptr;
}

double rate(const ComputeProbe& probe, Executor* executor) {
  // Some 50 microseconds a task, some 3 milliseconds in all: short enough to stand between two
  // calls of an operator, long enough that waking threads does not count.
  constexpr long kSteps = 20000;
  const int64_t tasks = 48 * (executor ? executor->max_workers() : 1);
  const double start = now();
  run_tasks(executor, tasks, [&](int64_t) { probe.run(kSteps); });
  return static_cast<double>(tasks) * kSteps * probe.flops_per_step / (now() - start);
}

std::span<const MemoryProbe> memory_probes() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return k_avx512;
  if (__builtin_cpu_supports("avx2")) return k_avx2;
  return k_sse2;
#elif defined(__aarch64__)
  return k_neon;
#else
  return {};
#endif
}

double rate(const MemoryProbe& probe, Executor* executor, std::byte* p, size_t bytes) {
  constexpr size_t kPiece = size_t{1} << 17;  // a task's: the two states of a head group
  constexpr double kSeconds = 1e-3;
  bytes -= bytes % kLine;
  if (bytes == 0) return 0;
  const auto tasks = static_cast<int64_t>((bytes + kPiece - 1) / kPiece);
  const double start = now();
  double seconds = 0;
  int passes = 0;
  do {
    run_tasks(executor, tasks, [&](int64_t task) {
      const size_t begin = static_cast<size_t>(task) * kPiece;
      probe.run(p + begin, std::min(kPiece, bytes - begin));
    });
    ++passes;
    seconds = now() - start;
  } while (seconds < kSeconds);
  return 2.0 * static_cast<double>(bytes) * passes / seconds;
}

}  // namespace gdn::benchmarks
