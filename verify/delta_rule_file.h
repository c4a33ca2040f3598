// A call of chunk() or recurrent() from a safetensors file: tensors named as the arguments are, and
// what is expected of it.
#pragma once

#include <optional>
#include <string>

#include "gdn/ops.h"
#include "gdn/status.h"
#include "verify/inputs.h"
#include "verify/safetensors.h"

namespace gdn::verify {

struct DeltaRuleFile {
  // out is not written; final_state has a slot a sequence, or is initial_state where
  // final_state_indices are given.
  DeltaRuleData data;
  Tensor out_expected, final_state_expected;  // each may be not given
};

// What a file does not say; its metadata may say it, under the names of the arguments ("vk" or "kv"
// as state_layout, "1" or "0" as use_qk_l2norm and allow_neg_eigval, numbers as scale and
// null_slot). What is set here goes first.
struct DeltaRuleFileOptions {
  std::string prefix;  // of names, "layer0." say; cu_seqlens may lack it
  std::optional<StateLayout> layout;
  std::optional<bool> use_qk_l2norm;
  std::optional<bool> allow_neg_eigval;
  std::optional<double> scale;
  std::optional<int64_t> null_slot;
  // Only what the systems of the chunks are made of: states are left out, k stands for q, and v is
  // one column of zeros.
  bool keys_alone = false;
};

// Reads it; shapes and dtypes are left to the operator's own checks. Without a prefix a tensor of
// no known name is an error; with one, tensors that lack it belong to somebody else.
Status read_delta_rule(const SafetensorsFile& file, const DeltaRuleFileOptions& options,
                       DeltaRuleFile* result);

// The same call with q, k, v, out and what else has their dtype in another one. From 16 bits to
// float32 no value changes.
DeltaRuleData converted(const DeltaRuleData& data, DType dtype);

}  // namespace gdn::verify
