// The operators of a Gated DeltaNet layer. Per value head, with state S in R^{V x K}, log-decay
// g_t, write strength beta_t and l2-normalised q_t, k_t:
//
//   S     <- exp(g_t) S
//   v_new <- beta_t (v_t - S k_t)
//   S     <- S + v_new k_t^T
//   o_t    = scale * S q_t
//
// (Yang, Kautz, Hatamizadeh: Gated Delta Networks, 2024; docs/algorithm.md has the chunked form.)
//
// In the shapes below B is the batch, T the tokens of a row, N the number of sequences, H the q/k
// heads, HV the value heads (a multiple of H; value head h reads q/k head h / (HV / H)), K and V
// the head dimensions (1 to 256). "float" is float32, bfloat16 or float16. Token and head axes may
// have any stride, so that slices of a fused buffer go in as they are; the last axis is contiguous.
// Data is aligned to its element. An output overlaps no input, and no other output; states may be
// updated in place, initial_state and final_state then being the same tensor.
//
// Every function may be called from several threads at once and returns a Status: when that is not
// ok, nothing was written.
#pragma once

#include <cstdint>
#include <optional>

#include "gdn/context.h"
#include "gdn/export.h"
#include "gdn/status.h"
#include "gdn/tensor.h"

namespace gdn {

// Which of a state's two last axes is contiguous.
enum class StateLayout : uint8_t {
  kVK,  // [.., HV, V, K]: vLLM, and the definition above
  kKV,  // [.., HV, K, V]: flash-linear-attention, Hugging Face
};

// What the matrix products take. kBF16 permits bfloat16 operands with float32 accumulation; a
// kernel without such products computes in float32. kAuto goes by the dtype of q, k, v: bfloat16
// for bfloat16, on a GPU 16 bits for float16 too, float32 otherwise. Gates, the triangular solve
// and the running state are float32 always.
enum class Compute : uint8_t { kAuto, kF32, kBF16 };

// Whether a GPU walks a long sequence in segments side by side, where there are too few heads to
// keep it at work: exactly but for rounding, through the segments' transitions, for some more
// products (docs/algorithm.md). kAuto: where that is faster, by the whole call and the device; so
// the bits of a sequence may depend on the batch that it is in. kFixed: by the sequence alone, in
// segments of a fixed length (2048 tokens), if the kernel has a split and there are no more value
// heads than a constant of the architecture (16); the workspace then grows with the call's tokens
// without a bound. kOff: never. The CPU has no use for it. Plan::segment_tokens tells.
enum class ContextSplit : uint8_t { kAuto, kFixed, kOff };

// The arguments that chunk() and recurrent() share. Optional tensors are those marked "or absent".
struct DeltaRuleArgs {
  TensorView q;    // float [B,T,H,K]
  TensorView k;    // float [B,T,H,K], dtype of q
  TensorView v;    // float [B,T,HV,V], dtype of q
  TensorView out;  // float [B,T,HV,V], dtype of q; written

  // Log-decay: either g, or the three from which it is computed as in gating().
  TensorView g;                // float32 [B,T,HV], or absent
  TensorView A_log;            // float [HV], or absent
  TensorView a;                // dtype of q or float32, [B,T,HV], or absent
  TensorView dt_bias;          // float [HV], or absent (zero)
  float softplus_beta = 1.0f;  // > 0
  float softplus_threshold = 20.0f;

  // Write strength: beta, or b with beta = sigmoid(b), or neither: beta = 1.
  TensorView beta;                // dtype of q or float32, [B,T,HV], or absent
  TensorView b;                   // dtype of q or float32, [B,T,HV], or absent
  bool allow_neg_eigval = false;  // doubles beta, given or computed

  // Sequences of any lengths packed into B = 1: sequence n is tokens [cu_seqlens[n],
  // cu_seqlens[n+1]). Starts at 0, never falls, ends at T or before; rows of out past the end
  // become zero. Absent: every batch row is a sequence, N = B.
  TensorView cu_seqlens;  // int32 or int64 [N+1], or absent

  // States. Without indices the slot of sequence n is n, and there are N slots. With indices the
  // tensor is a pool with any number of slots and any stride between them; only named slots are
  // touched. A negative index, or null_slot, is padding: as initial index it skips the sequence and
  // zeroes its rows of out, as final index it drops that state.
  TensorView initial_state;          // float [slots,HV,V,K] or [slots,HV,K,V], or absent (zero)
  TensorView final_state;            // float, likewise; written; or absent. May be initial_state.
  TensorView initial_state_indices;  // int32 or int64 [N], or [N,M] with num_accepted; or absent
  TensorView
      final_state_indices;       // int32 or int64 [N]: slot of the last state; or [N,M], M >= every
                                 // length: slot of the state after token t at column t; or absent.
                                 // Written slots are distinct, and no other sequence reads them.
  TensorView has_initial_state;  // bool [N]: false starts from zero and reads no slot; or absent
  TensorView num_accepted;       // int32 or int64 [N], 1 to M: sequence n reads its state at column
                                 // num_accepted[n] - 1 of initial_state_indices; or absent
  std::optional<int64_t> null_slot;

  std::optional<double> scale;  // finite; absent: K^-1/2
  bool use_qk_l2norm = false;   // q and k are l2-normalised inside, as by l2norm()
  double l2norm_eps = 1e-6;     // >= 0
  Compute compute = Compute::kAuto;
  StateLayout state_layout;  // has no default: it cannot be guessed from square states

 protected:
  explicit DeltaRuleArgs(StateLayout layout) : state_layout(layout) {}
};

// Prefill: the chunked form, for many tokens.
struct ChunkArgs : DeltaRuleArgs {
  explicit ChunkArgs(StateLayout layout) : DeltaRuleArgs(layout) {}

  // Steers the reference's staged pipeline only; a fused kernel has a chunk of its own. >= 1.
  int64_t chunk_size = 64;

  ContextSplit context_split = ContextSplit::kAuto;

  // With checkpoint_every = c > 0 (a multiple of 64) the state of sequence n after token (j+1)c,
  // for j = 0 .. floor(T_n / c) - 1, goes to row checkpoint_cu[n] + j of checkpoints.
  int64_t checkpoint_every = 0;
  TensorView checkpoints;    // float [M,HV,V,K] or [M,HV,K,V]; written; or absent
  TensorView checkpoint_cu;  // int32 or int64 [N+1], from 0, row counts floor(T_n / c); or absent
};
GDN_API Status chunk(Context& context, const ChunkArgs& args);

// Decode: token by token, for one or a few tokens a sequence (any number is right). Over T tokens
// with float32 states it gives the bits of T calls of one token.
struct RecurrentArgs : DeltaRuleArgs {
  explicit RecurrentArgs(StateLayout layout) : DeltaRuleArgs(layout) {}
  // Tensors and options of another call, a prefill say; what is not the same is set afterwards.
  explicit RecurrentArgs(const DeltaRuleArgs& other) : DeltaRuleArgs(other) {}
};
GDN_API Status recurrent(Context& context, const RecurrentArgs& args);

// Speculative decode with records in place of a state per token. replay_verify() takes each
// sequence's state from its slot, folds in the first num_accepted[n] records that the previous call
// left there (S <- exp(g) S + v_new k^T for each), writes the state back, then runs the T tokens of
// this call on a copy and replaces the slot's records by theirs. A record is the normalised k,
// v_new and g of a token.
struct ReplayVerifyArgs {
  TensorView q;    // float [B,T,H,K]; N and lengths as in DeltaRuleArgs, lengths at most M
  TensorView k;    // float [B,T,H,K], dtype of q
  TensorView v;    // float [B,T,HV,V], dtype of q
  TensorView out;  // float [B,T,HV,V], dtype of q; written

  // Gates, as in DeltaRuleArgs.
  TensorView g, A_log, a, dt_bias;
  float softplus_beta = 1.0f;
  float softplus_threshold = 20.0f;
  TensorView beta, b;
  bool allow_neg_eigval = false;

  TensorView cu_seqlens;  // int32 or int64 [N+1], or absent
  TensorView state;       // float [slots,HV,V,K] or [slots,HV,K,V]; read and written in place
  TensorView
      state_indices;  // int32 or int64 [N], distinct; negative or null_slot: padding; or absent
  TensorView num_accepted;  // int32 or int64 [N], 0 to M: how many records to fold in
  TensorView record_k;      // float [slots,M,H,K]; read and written; slots as in state
  TensorView record_v;      // float [slots,M,HV,V]; v_new; read and written
  TensorView record_g;      // float32 [slots,M,HV]; read and written
  std::optional<int64_t> null_slot;

  std::optional<double> scale;
  bool use_qk_l2norm = false;
  double l2norm_eps = 1e-6;
  StateLayout state_layout;

  explicit ReplayVerifyArgs(StateLayout layout) : state_layout(layout) {}
};
GDN_API Status replay_verify(Context& context, const ReplayVerifyArgs& args);

// Folds the first num_accepted[n] records into the state, for a sequence that leaves replay. The
// records stay as they are: do not fold them twice.
struct ReplayCommitArgs {
  TensorView state;  // float [slots,HV,V,K] or [slots,HV,K,V]; read and written in place
  TensorView
      state_indices;  // int32 or int64 [N], distinct; negative or null_slot: padding; or absent
  TensorView num_accepted;  // int32 or int64 [N], 0 to M
  TensorView record_k;      // float [slots,M,H,K]
  TensorView record_v;      // float [slots,M,HV,V]
  TensorView record_g;      // float32 [slots,M,HV]
  std::optional<int64_t> null_slot;
  StateLayout state_layout;

  explicit ReplayCommitArgs(StateLayout layout) : state_layout(layout) {}
};
GDN_API Status replay_commit(Context& context, const ReplayCommitArgs& args);

// g = -exp(A_log) * softplus(a + dt_bias), softplus(x) = log1p(exp(softplus_beta x)) /
// softplus_beta where softplus_beta x <= softplus_threshold, else x; beta = sigmoid(b), doubled by
// allow_neg_eigval (Mamba-2's decay; Hugging Face's Qwen3NextGatedDeltaNet).
struct GatingArgs {
  TensorView a;                // float [B,T,HV]
  TensorView A_log;            // float [HV]
  TensorView dt_bias;          // float [HV], or absent (zero)
  TensorView b;                // float [B,T,HV], or absent
  TensorView g;                // float32 [B,T,HV]; written
  TensorView beta;             // float [B,T,HV]; written; given exactly when b is
  float softplus_beta = 1.0f;  // > 0
  float softplus_threshold = 20.0f;
  bool allow_neg_eigval = false;
};
GDN_API Status gating(Context& context, const GatingArgs& args);

// y = x / sqrt(sum x^2 + eps) over the last axis, computed in float32.
struct L2normArgs {
  TensorView x;       // float [...,D], 1 to 4 axes, D >= 1
  TensorView y;       // float [...,D]; written
  double eps = 1e-6;  // >= 0
};
GDN_API Status l2norm(Context& context, const L2normArgs& args);

// y = x * rsqrt(mean x^2 + eps) * weight * silu(z) over the last axis, silu(z) = z sigmoid(z),
// computed in float32: the norm at the end of a Gated DeltaNet layer (Hugging Face's
// Qwen3NextRMSNormGated).
struct RmsNormGatedArgs {
  TensorView x;       // float [...,D], 1 to 4 axes, D >= 1
  TensorView z;       // float [...,D], dtype of x
  TensorView weight;  // float [D]
  TensorView y;       // float [...,D]; written
  double eps = 1e-6;  // >= 0
};
GDN_API Status rms_norm_gated(Context& context, const RmsNormGatedArgs& args);

// Depthwise causal convolution of width W over the tokens of each sequence,
//
//   y_t = activation(bias + sum over j < W of weight[:, j] * x_(t - W + 1 + j))
//
// where the W - 1 tokens before the first come from the state (zeros without one). Prefill and
// update by one or a few tokens are the same call. The state holds the last S >= W - 1 inputs of a
// channel, the newest last; D and S may have any strides, and S is the same in both states. A
// sequence of fewer than S tokens keeps the newest inputs of the state it started from, one without
// tokens all of them. Slots, padding and has_initial_state are as in DeltaRuleArgs.
//
// For speculative decoding there are two ways:
// - As for the recurrent state, with [N,M] indices: the state is read from column
//   num_accepted[n] - 1 of initial_state_indices, and that after token t goes to column t of
//   final_state_indices.
// - With one slot a sequence, num_accepted and [N] indices or none: the slot was written by a call
//   with as many tokens T_n as this one, whose inputs that were not accepted, the newest
//   T_n - num_accepted[n], are dropped before those of this call come in. S >= W - 2 + T_n, so that
//   W - 1 are left. A sequence that reads no state, or has no tokens, does not look at
//   num_accepted.
struct CausalConv1dArgs {
  TensorView x;       // float [B,T,D]; last axis contiguous
  TensorView weight;  // float [D,W] with any strides, W from 1 to 8
  TensorView bias;    // float [D], or absent
  TensorView y;       // float [B,T,D], dtype of x; written
  bool silu = false;  // activation: silu, or none

  TensorView cu_seqlens;             // int32 or int64 [N+1], or absent; as in DeltaRuleArgs
  TensorView initial_state;          // float [slots,D,S], or absent (zero)
  TensorView final_state;            // float [slots,D,S]; written; or absent. May be initial_state.
  TensorView initial_state_indices;  // int32 or int64 [N] or [N,M], or absent
  TensorView final_state_indices;    // int32 or int64 [N], or (not with one slot) [N,M]; or absent
  TensorView has_initial_state;      // bool [N], or absent
  TensorView num_accepted;           // int32 or int64 [N], 1 to M or 1 to T_n, or absent
  std::optional<int64_t> null_slot;
};
GDN_API Status causal_conv1d(Context& context, const CausalConv1dArgs& args);

enum class SolveMethod : uint8_t {
  kExact,    // blocked forward substitution
  kNeumann,  // X <- X - X strict_lower(L X) from X = I, `iterations` times: Newton's iteration,
             // exact after ceil(log2 n) steps in exact arithmetic. For study: its intermediates
             // explode where keys are alike, and no fused kernel uses it.
};

// The inverse of unit lower triangular matrices. Only the strictly lower part of `lower` counts;
// the rest may hold anything. With an element there that is not finite, any below the diagonal of
// that matrix's inverse may be NaN.
struct SolveTrilArgs {
  TensorView lower;     // float [...,n,n], 2 to 5 axes, n from 1 to 256
  TensorView inverse;   // dtype of lower, same shape; written, zeros above the diagonal
  TensorView residual;  // float32 [...]: max |strict_lower(L X)| of each matrix; written; or absent
  SolveMethod method = SolveMethod::kExact;
  int64_t iterations = 14;  // of kNeumann; >= 1
  // kAuto and kF32: float32 inside, rounded once. kBF16 (kNeumann with bfloat16 tensors alone): X
  // and strict_lower(L X) are rounded to bfloat16 in every iteration, as a bfloat16 pipeline would.
  Compute compute = Compute::kAuto;
};
GDN_API Status solve_tril(Context& context, const SolveTrilArgs& args);

}  // namespace gdn
