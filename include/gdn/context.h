// What every operator takes first: where its threads and its scratch memory come from.
#pragma once

#include <cstddef>

#include "gdn/executor.h"

namespace gdn {

// Plain data; any number of calls may use one Context at the same time, as long as it names no
// workspace.
struct Context {
  // Not given: the calling thread does all the work.
  Executor* executor = nullptr;

  // Scratch memory, aligned to 64 bytes and of at least Plan::workspace_bytes, for one call at a
  // time. Not given: the call allocates what it needs and frees it.
  void* workspace = nullptr;
  size_t workspace_bytes = 0;

  // Forces a kernel by a name that kernels() lists ("avx2", "reference", ...). nullptr: the plan
  // chooses.
  const char* kernel = nullptr;

  // A GPU backend's stream; the CPU ignores it.
  void* stream = nullptr;
};

}  // namespace gdn
