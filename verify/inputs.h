// The one generator of inputs: all tensors of a Case, from its seed alone.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "gdn/ops.h"
#include "verify/case.h"
#include "verify/random.h"
#include "verify/tensor.h"

namespace gdn::verify {

// What the operators with states in pools share.
struct StateData {
  Tensor initial_state, final_state;  // one tensor when in place
  Tensor initial_state_indices, final_state_indices, has_initial_state, num_accepted;
  std::optional<int64_t> null_slot;
};

// The arguments of chunk() or recurrent(), with the tensors behind them. Outputs are all NaN. May
// also be filled by hand, from a file.
struct DeltaRuleData : StateData {
  Case about;
  Tensor q, k, v, out;
  Tensor g, A_log, a, dt_bias, beta, b;
  Tensor cu_seqlens;
  Tensor checkpoints, checkpoint_cu;

  ChunkArgs chunk_args() const;
  RecurrentArgs recurrent_args() const;
};
DeltaRuleData make_delta_rule(const Case& c);

// The arguments of replay_verify() and of the replay_commit() after it.
struct ReplayData {
  Case about;
  Tensor q, k, v, out;
  Tensor g, A_log, a, dt_bias, beta, b;
  Tensor cu_seqlens;
  Tensor state, state_indices, num_accepted;
  Tensor record_k, record_v, record_g;
  Tensor commit_accepted;  // num_accepted of the commit: at most the tokens just recorded
  std::optional<int64_t> null_slot;

  ReplayVerifyArgs verify_args() const;
  ReplayCommitArgs commit_args() const;
};
ReplayData make_replay(const Case& c);

// The arguments of causal_conv1d().
struct CausalConv1dData : StateData {
  Case about;
  Tensor x, weight, bias, y;
  Tensor cu_seqlens;

  CausalConv1dArgs args() const;
};
CausalConv1dData make_causal_conv1d(const Case& c);

}  // namespace gdn::verify
