// The arguments that chunk, recurrent, replay_verify_ and the reference operators share, in the
// groups of schemas.cc.
#pragma once

#include "call.h"
#include "stack.h"

namespace gdn::torch_binding {

// GDN_TOKENS.
struct Tokens {
  Tensor q, k, v, g, beta;
  explicit Tokens(Arguments& in)
      : q(in.tensor()),
        k(in.tensor()),
        v(in.tensor()),
        g(in.optional_tensor()),
        beta(in.optional_tensor()) {}

  // For out: the shape of v, the dtype of q.
  Tensor new_out(Place place) const;
  template <class Args>
  void put(Args* args) const {
    args->q = q.view();
    args->k = k.view();
    args->v = v.view();
    args->g = g.view();
    args->beta = beta.view();
  }
};

// GDN_GATES.
struct Gates {
  Tensor A_log, a, dt_bias, b;
  bool allow_neg_eigval;
  double softplus_beta, softplus_threshold;
  Tensor cu_seqlens;
  std::optional<double> scale;
  bool use_qk_l2norm;
  double l2norm_eps;
  explicit Gates(Arguments& in)
      : A_log(in.optional_tensor()),
        a(in.optional_tensor()),
        dt_bias(in.optional_tensor()),
        b(in.optional_tensor()),
        allow_neg_eigval(in.boolean()),
        softplus_beta(in.number()),
        softplus_threshold(in.number()),
        cu_seqlens(in.optional_tensor()),
        scale(in.optional_number()),
        use_qk_l2norm(in.boolean()),
        l2norm_eps(in.number()) {}

  template <class Args>
  void put(Args* args) const {
    args->A_log = A_log.view();
    args->a = a.view();
    args->dt_bias = dt_bias.view();
    args->b = b.view();
    args->allow_neg_eigval = allow_neg_eigval;
    args->softplus_beta = static_cast<float>(softplus_beta);
    args->softplus_threshold = static_cast<float>(softplus_threshold);
    args->cu_seqlens = cu_seqlens.view();
    args->scale = scale;
    args->use_qk_l2norm = use_qk_l2norm;
    args->l2norm_eps = l2norm_eps;
  }
};

// GDN_INITIAL_SLOTS.
struct InitialSlots {
  Tensor initial_state_indices, has_initial_state;
  std::optional<int64_t> null_slot;
  explicit InitialSlots(Arguments& in)
      : initial_state_indices(in.optional_tensor()),
        has_initial_state(in.optional_tensor()),
        null_slot(in.optional_integer()) {}

  template <class Args>
  void put(Args* args) const {
    args->initial_state_indices = initial_state_indices.view();
    args->has_initial_state = has_initial_state.view();
    args->null_slot = null_slot;
  }
};

// GDN_SLOTS.
struct Slots {
  Tensor initial_state_indices, final_state_indices, has_initial_state, num_accepted;
  std::optional<int64_t> null_slot;
  explicit Slots(Arguments& in)
      : initial_state_indices(in.optional_tensor()),
        final_state_indices(in.optional_tensor()),
        has_initial_state(in.optional_tensor()),
        num_accepted(in.optional_tensor()),
        null_slot(in.optional_integer()) {}

  // Updates `state` in place; where it was read from, unless final_state_indices says otherwise.
  template <class Args>
  void put(const Tensor& state, Args* args) const {
    args->initial_state = state.view();
    args->final_state = state.view();
    args->initial_state_indices = initial_state_indices.view();
    args->final_state_indices =
        final_state_indices.given() ? final_state_indices.view() : initial_state_indices.view();
    args->has_initial_state = has_initial_state.view();
    args->num_accepted = num_accepted.view();
    args->null_slot = null_slot;
  }
};

// The number of sequences of rows [B,..] or of cu_seqlens; -1 where the check will refuse them.
int64_t sequence_count(const Tensor& rows, const Tensor& cu_seqlens);

// A final state [N, ..] to be written: its last axes are those of `initial` or, without that, as
// `shape` says; its dtype is initial's or float32. Rows that a call may skip are zeros.
Tensor new_final_state(int64_t sequences, const Tensor& initial, const int64_t* shape, int rank,
                       bool zeros, Place place);

}  // namespace gdn::torch_binding
