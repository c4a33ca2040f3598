// The names that arguments have in files and on command lines: those of the API. Each list is
// walked as visit(name, member), over an argument struct or over the data behind one.
#pragma once

#include "gdn/ops.h"

namespace gdn::verify {

// Tensors that are read.

template <class A, class Visit>
void for_each_token_input(A& a, const Visit& visit) {
  visit("q", a.q);
  visit("k", a.k);
  visit("v", a.v);
  visit("g", a.g);
  visit("A_log", a.A_log);
  visit("a", a.a);
  visit("dt_bias", a.dt_bias);
  visit("beta", a.beta);
  visit("b", a.b);
  visit("cu_seqlens", a.cu_seqlens);
}

// Of DeltaRuleArgs, or DeltaRuleData.
template <class A, class Visit>
void for_each_delta_rule_input(A& a, const Visit& visit) {
  for_each_token_input(a, visit);
  visit("initial_state", a.initial_state);
  visit("initial_state_indices", a.initial_state_indices);
  visit("final_state_indices", a.final_state_indices);
  visit("has_initial_state", a.has_initial_state);
  visit("num_accepted", a.num_accepted);
}

template <class A, class Visit>
void for_each_record_input(A& a, const Visit& visit) {
  visit("state", a.state);
  visit("state_indices", a.state_indices);
  visit("num_accepted", a.num_accepted);
  visit("record_k", a.record_k);
  visit("record_v", a.record_v);
  visit("record_g", a.record_g);
}

template <class Visit>
void for_each_input(ChunkArgs& a, const Visit& visit) {
  for_each_delta_rule_input(a, visit);
  visit("checkpoint_cu", a.checkpoint_cu);
}
template <class Visit>
void for_each_input(RecurrentArgs& a, const Visit& visit) {
  for_each_delta_rule_input(a, visit);
}
template <class Visit>
void for_each_input(ReplayVerifyArgs& a, const Visit& visit) {
  for_each_token_input(a, visit);
  for_each_record_input(a, visit);
}
template <class Visit>
void for_each_input(ReplayCommitArgs& a, const Visit& visit) {
  for_each_record_input(a, visit);
}
template <class Visit>
void for_each_input(GatingArgs& a, const Visit& visit) {
  visit("a", a.a);
  visit("A_log", a.A_log);
  visit("dt_bias", a.dt_bias);
  visit("b", a.b);
}
template <class Visit>
void for_each_input(L2normArgs& a, const Visit& visit) {
  visit("x", a.x);
}
template <class Visit>
void for_each_input(SolveTrilArgs& a, const Visit& visit) {
  visit("lower", a.lower);
}
template <class Visit>
void for_each_input(RmsNormGatedArgs& a, const Visit& visit) {
  visit("x", a.x);
  visit("z", a.z);
  visit("weight", a.weight);
}
template <class Visit>
void for_each_input(CausalConv1dArgs& a, const Visit& visit) {
  visit("x", a.x);
  visit("weight", a.weight);
  visit("bias", a.bias);
  visit("cu_seqlens", a.cu_seqlens);
  visit("initial_state", a.initial_state);
  visit("initial_state_indices", a.initial_state_indices);
  visit("final_state_indices", a.final_state_indices);
  visit("has_initial_state", a.has_initial_state);
  visit("num_accepted", a.num_accepted);
}

// Options.

template <class A, class Visit>
void for_each_gate_option(A& a, const Visit& visit) {
  visit("softplus_beta", a.softplus_beta);
  visit("softplus_threshold", a.softplus_threshold);
  visit("allow_neg_eigval", a.allow_neg_eigval);
}

template <class A, class Visit>
void for_each_token_option(A& a, const Visit& visit) {
  for_each_gate_option(a, visit);
  visit("null_slot", a.null_slot);
  visit("scale", a.scale);
  visit("use_qk_l2norm", a.use_qk_l2norm);
  visit("l2norm_eps", a.l2norm_eps);
  visit("state_layout", a.state_layout);
}

template <class Visit>
void for_each_option(ChunkArgs& a, const Visit& visit) {
  for_each_token_option(a, visit);
  visit("compute", a.compute);
  visit("chunk_size", a.chunk_size);
  visit("context_split", a.context_split);
  visit("checkpoint_every", a.checkpoint_every);
}
template <class Visit>
void for_each_option(RecurrentArgs& a, const Visit& visit) {
  for_each_token_option(a, visit);
  visit("compute", a.compute);
}
template <class Visit>
void for_each_option(ReplayVerifyArgs& a, const Visit& visit) {
  for_each_token_option(a, visit);
}
template <class Visit>
void for_each_option(ReplayCommitArgs& a, const Visit& visit) {
  visit("null_slot", a.null_slot);
  visit("state_layout", a.state_layout);
}
template <class Visit>
void for_each_option(GatingArgs& a, const Visit& visit) {
  for_each_gate_option(a, visit);
}
template <class Visit>
void for_each_option(L2normArgs& a, const Visit& visit) {
  visit("eps", a.eps);
}
template <class Visit>
void for_each_option(SolveTrilArgs& a, const Visit& visit) {
  visit("method", a.method);
  visit("iterations", a.iterations);
  visit("compute", a.compute);
}
template <class Visit>
void for_each_option(RmsNormGatedArgs& a, const Visit& visit) {
  visit("eps", a.eps);
}
template <class Visit>
void for_each_option(CausalConv1dArgs& a, const Visit& visit) {
  visit("silu", a.silu);
  visit("null_slot", a.null_slot);
}

}  // namespace gdn::verify
