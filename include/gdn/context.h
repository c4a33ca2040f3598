// What every operator takes first: where its threads and its scratch memory come from.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gdn/executor.h"

namespace gdn {

// Plain data; any number of calls may use one Context at the same time, as long as it names no
// workspace.
struct Context {
  // Not given: the calling thread does all the work.
  Executor* executor = nullptr;

  // Scratch memory, aligned to 64 bytes and of at least Plan::workspace_bytes, for one call at a
  // time, on the device of the tensors. Not given: on the CPU the call allocates what it needs and
  // frees it; on a GPU nothing is allocated, and a plan that needs a workspace has to get one. With
  // or without, a call on the CPU that writes more than 256 slots named by indices allocates a
  // table of them while it is checked.
  void* workspace = nullptr;
  size_t workspace_bytes = 0;

  // Forces a kernel by a name that kernels() lists ("avx2", "reference", ...). nullptr: the plan
  // chooses.
  const char* kernel = nullptr;

  // For a backend whose device has streams, a cudaStream_t on a GPU: a call puts its work there and
  // returns. The backends on the CPU ignore it.
  void* stream = nullptr;

  // A GPU finds out of range values of cu_seqlens, indices and num_accepted only while it works. It
  // takes them for padding, and sets this number, in its memory, to 1 (never to 0). Not given:
  // nobody hears of them.
  int32_t* out_of_range = nullptr;
};

}  // namespace gdn
