// What chunk(), recurrent() and the replay operators share: tokens, gates, sequences and states.
#pragma once

#include "check/common.h"
#include "gdn/ops.h"
#include "problem.h"

namespace gdn {

// q, k, v, out, the gates, cu_seqlens and the options that go with them; fills all of the problem
// but its states, and of its shape all but state_dtype, compute and chunk_size. Args is
// DeltaRuleArgs or ReplayVerifyArgs.
template <class Args, class Problem>
void check_tokens(Check& check, const Args& args, Problem* problem);

// Also the rest of DeltaRuleArgs. Leaves the overlaps to the caller, who may have more tensors;
// then check_slots() of slots.h must follow.
void check_delta_rule(Check& check, const DeltaRuleArgs& args, DeltaRuleProblem* problem);

// A tensor [slots, HV, V, K] or [slots, HV, K, V], contiguous inside a slot.
void check_state(Check& check, const char* name, const TensorView& view, const Extent& slots,
                 const Shape& shape, Access access);

void check_layout(Check& check, StateLayout layout);

// H, and HV a multiple of it.
void check_heads(Check& check, const char* h_argument, int64_t H, const char* hv_argument,
                 int64_t HV);

// What gating() and the operators that gate inside share.
void check_softplus(Check& check, float beta, float threshold);
void check_decay_vectors(Check& check, const TensorView& A_log, const TensorView& dt_bias,
                         int64_t HV);

}  // namespace gdn
