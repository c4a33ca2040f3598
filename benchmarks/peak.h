// What the machine could do at best, measured beside what it does: independent fused multiply-adds,
// bfloat16 dot products, and updates of memory in place. Everything runs on the threads of the
// executor that runs the operators.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "gdn/executor.h"

namespace gdn::benchmarks {

// A loop of independent chains of one instruction that stays in registers.
struct ComputeProbe {
  const char* what;       // "AVX-512 fp32 FMA"
  double flops_per_step;  // multiplications and additions
  void (*run)(long steps);
};

// Of the instruction set of a kernel, as gdn::kernels() names it; nullptr where there is none.
const ComputeProbe* fp32_probe(std::string_view kernel);
const ComputeProbe* bf16_probe(std::string_view kernel);

// FLOP/s of all workers together, over a few milliseconds. executor may be nullptr.
double rate(const ComputeProbe& probe, Executor* executor);

// A loop that reads, changes and writes every byte of [p, p + bytes); p is aligned to 64 bytes and
// bytes a multiple of 64. The change is of no bits, so the memory may be a live state.
struct MemoryProbe {
  const char* what;  // "plain", "prefetched", "non-temporal"
  void (*run)(std::byte* p, size_t bytes);
};

// Those of this machine, in its widest vectors. The best of them is the machine's rate.
std::span<const MemoryProbe> memory_probes();

// Bytes read plus bytes written per second, of all workers together, over a millisecond or one
// pass.
double rate(const MemoryProbe& probe, Executor* executor, std::byte* p, size_t bytes);

}  // namespace gdn::benchmarks
