// The loops of benchmarks/peak.h for Python, on the threads that PyTorch's operators run on: both
// use the OpenMP runtime that the process has loaded.
#include <algorithm>
#include <cstddef>

#include "benchmarks/peak.h"

extern "C" {

int memory_loop_count() { return static_cast<int>(gdn::benchmarks::memory_probes().size()); }

const char* memory_loop_name(int loop) { return gdn::benchmarks::memory_probes()[loop].what; }

// Reads and writes [p, p + bytes) once; p is aligned to 64 bytes, bytes a multiple of 64.
void memory_loop_run(int loop, std::byte* p, size_t bytes, int threads) {
  constexpr size_t kPiece = size_t{1}
                            << 17;  // what a worker takes at a time: the two states of a head group
  const auto run = gdn::benchmarks::memory_probes()[loop].run;
  const auto pieces = static_cast<long>((bytes + kPiece - 1) / kPiece);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (long piece = 0; piece < pieces; ++piece) {
    const size_t begin = static_cast<size_t>(piece) * kPiece;
    run(p + begin, std::min(kPiece, bytes - begin));
  }
}
}
