// The captured inputs of trained layers in data/, and what an independent program computed from
// them.
#pragma once

#include <string>
#include <vector>

#include "gdn/status.h"
#include "verify/delta_rule_file.h"

namespace gdn::verify {

struct Capture {
  std::string layer;  // "layer0"
  DeltaRuleFile file;
  Tensor g_expected, beta_expected;  // [1,T,HV], float32
};

// Every layer of directory/gdn_captures.safetensors.
Status read_captures(const std::string& directory, std::vector<Capture>* captures);

}  // namespace gdn::verify
