// What this build and this machine have: what `gdn info` and `python -m gdn` print.
#pragma once

#include <string>
#include <vector>

#include "gdn/gdn.h"
#include "processor.h"

namespace gdn::tools {

struct MachineInfo {
  Processor processor;
  std::string executor;  // where the threads come from
  int threads = 0;
  Plan chosen;  // of the chunk operator
  bool bf16_products = false;
  std::vector<KernelInfo> kernels;
};

// Threads as the context's executor has them, and what it is called.
Status machine_info(const Context& context, const std::string& executor, MachineInfo* info);

// For a person, in lines.
std::string to_string(const MachineInfo& info);

}  // namespace gdn::tools
