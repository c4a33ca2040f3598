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
  // time. Not given: the call allocates what it needs and frees it. With or without, a call that
  // writes more than 256 slots named by indices allocates a table of them while it is checked.
  void* workspace = nullptr;
  size_t workspace_bytes = 0;

  // Forces a kernel by a name that kernels() lists ("avx2", "reference", ...). nullptr: the plan
  // chooses.
  const char* kernel = nullptr;

  // For a backend whose device has streams. The backends on the CPU ignore it.
  void* stream = nullptr;
};

}  // namespace gdn
