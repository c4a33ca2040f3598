// What `gdn run` allocates for an operator to write.
#pragma once

#include <deque>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "gdn/gdn.h"
#include "verify/tensor.h"

namespace gdn::tools {

template <class Args>
constexpr bool has_final_state =
    std::is_base_of_v<DeltaRuleArgs, Args> || std::is_same_v<Args, CausalConv1dArgs>;

// Each allocate() sets the outputs of `args`, whose inputs are set but not yet checked: an output
// that cannot be sized is left out, and the operator's own check says why. Tensors that an operator
// updates are copied first.
class Outputs {
 public:
  // `start` is what the pool of final states starts as; not given: initial_state where
  // final_state_indices are given, and else there is a new slot for every sequence.
  void allocate(ChunkArgs* args, const TensorView& start, bool keep_final_state);
  void allocate(RecurrentArgs* args, const TensorView& start, bool keep_final_state);
  void allocate(ReplayVerifyArgs* args, const TensorView&, bool);
  void allocate(ReplayCommitArgs* args, const TensorView&, bool);
  void allocate(GatingArgs* args, const TensorView&, bool);
  void allocate(L2normArgs* args, const TensorView&, bool);
  void allocate(RmsNormGatedArgs* args, const TensorView&, bool);
  void allocate(CausalConv1dArgs* args, const TensorView& start, bool keep_final_state);
  void allocate(SolveTrilArgs* args, const TensorView&, bool);

  const std::deque<std::pair<std::string, verify::Tensor>>& tensors() const { return tensors_; }

 private:
  TensorView make(const std::string& name, DType dtype, std::vector<int64_t> shape);
  TensorView like(const std::string& name, DType dtype, const TensorView& view);
  TensorView copy(const std::string& name, const TensorView& view);
  void delta_rule(DeltaRuleArgs* args, const TensorView& start, bool keep_final_state);
  template <class Args>
  void final_states(Args* args, const TensorView& start, std::vector<int64_t> shape);
  void checkpoints(ChunkArgs* args);

  std::deque<std::pair<std::string, verify::Tensor>> tensors_;
};

}  // namespace gdn::tools
