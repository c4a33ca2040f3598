// The one generator of inputs: all tensors of a Case, from its seed alone.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "gdn/ops.h"
#include "verify/case.h"
#include "verify/tensor.h"

namespace gdn::verify {

// A small generator whose numbers are the same everywhere.
class Random {
 public:
  // One stream of many: streams of different (seed, stream) do not meet.
  explicit Random(uint64_t seed, uint64_t stream = 0);
  uint64_t bits();
  double uniform();                             // [0, 1)
  double normal();                              // mean 0, deviation 1
  int64_t below(int64_t n);                     // [0, n)
  std::vector<int64_t> permutation(int64_t n);  // of 0 .. n-1

 private:
  uint64_t state_;
  std::optional<double> spare_;
};

// The arguments of chunk() or recurrent(), with the tensors behind them. Outputs are all NaN. May
// also be filled by hand, from a file.
struct DeltaRuleData {
  Case about;
  Tensor q, k, v, out;
  Tensor g, A_log, a, dt_bias, beta, b;
  Tensor cu_seqlens;
  Tensor initial_state, final_state;  // one tensor when in place
  Tensor initial_state_indices, final_state_indices, has_initial_state, num_accepted;
  Tensor checkpoints, checkpoint_cu;
  std::optional<int64_t> null_slot;

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

}  // namespace gdn::verify
