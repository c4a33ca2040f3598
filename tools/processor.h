// What the machine is, in words that a measurement can be printed beside.
#pragma once

#include <string>
#include <vector>

namespace gdn::tools {

struct Processor {
  std::string model;
  int cores = 0;                      // that this process may use
  std::vector<std::string> features;  // the instruction sets that matter to the kernels
};

Processor processor();

}  // namespace gdn::tools
