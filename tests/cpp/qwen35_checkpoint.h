// Random Qwen3.5 checkpoints of any shape, for the tests of examples/qwen35.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gdn/tensor.h"

namespace gdn::tests {

struct RandomCheckpoint {
  std::string name;
  nlohmann::json config;       // of the text model
  bool nested = false;         // config under text_config, tensors under model.language_model
  int files = 1;               // more than one come with an index
  DType dtype = DType::kF32;   // of the matrices
  std::string without_tensor;  // is left out

  // Into an existing folder.
  void write(const std::string& folder, uint32_t seed) const;
};

// Configs that differ in layer pattern, heads, head dims, embeddings, biases, and in how they are
// stored.
std::vector<RandomCheckpoint> random_checkpoints();

}  // namespace gdn::tests
