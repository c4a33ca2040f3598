// The schemas of torch.ops.gdn. They are the contract of every device: a library with the kernels
// of another device registers them for these schemas. What the arguments mean is said in
// gdn/ops.h; what is said here is what differs from it.
//
// - An operator whose name ends in "_" updates the tensors marked (a!) in place; the others write
//   none of their arguments. No output is, or shares memory with, an argument.
// - state_layout is "vk" ([slots,HV,V,K]) or "kv" ([slots,HV,K,V]); compute is "auto", "float32" or
//   "bfloat16"; context_split is "auto", "fixed" or "off";
//   force_kernel takes a name of gdn::kernels() ("kernel" is a name that PyTorch's compiler uses).
// - An output that was not asked for is an empty tensor, of shape [0].
// - A final state has the dtype of the initial one, float32 without one.
#include "registration.h"

namespace gdn::torch_binding {
namespace {

// What chunk, recurrent and replay_verify begin and end with.
#define GDN_TOKENS "Tensor q, Tensor k, Tensor v, Tensor? g, Tensor? beta"
#define GDN_GATES                                                                         \
  "Tensor? A_log=None, Tensor? a=None, Tensor? dt_bias=None, Tensor? b=None, "            \
  "bool allow_neg_eigval=False, float softplus_beta=1.0, float softplus_threshold=20.0, " \
  "Tensor? cu_seqlens=None, float? scale=None, bool use_qk_l2norm=False, float l2norm_eps=1e-6"
#define GDN_INITIAL_SLOTS \
  "Tensor? initial_state_indices=None, Tensor? has_initial_state=None, int? null_slot=None"
#define GDN_SLOTS                                                          \
  "Tensor? initial_state_indices=None, Tensor? final_state_indices=None, " \
  "Tensor? has_initial_state=None, Tensor? num_accepted=None, int? null_slot=None"

constexpr const char* kSchemas[] = {
    // (out, final_state), final_state [N,HV,..]: row n is sequence n's; rows of padding are zero.
    "chunk(" GDN_TOKENS
    ", Tensor? initial_state=None, *, str state_layout, "
    "bool output_final_state=False, " GDN_GATES ", " GDN_INITIAL_SLOTS
    ", int chunk_size=64, str context_split='auto', str compute='auto', "
    "str? force_kernel=None) -> (Tensor, Tensor)",

    // out. final_state_indices: initial_state_indices unless given. checkpoints are written.
    "chunk_(" GDN_TOKENS ", Tensor(a!) state, *, str state_layout, " GDN_GATES ", " GDN_SLOTS
    ", int chunk_size=64, str context_split='auto', int checkpoint_every=0, "
    "Tensor(b!)? checkpoints=None, "
    "Tensor? checkpoint_cu=None, str compute='auto', str? force_kernel=None) -> Tensor",

    "recurrent(" GDN_TOKENS
    ", Tensor? initial_state=None, *, str state_layout, "
    "bool output_final_state=False, " GDN_GATES ", " GDN_INITIAL_SLOTS
    ", str compute='auto', str? force_kernel=None) -> (Tensor, Tensor)",

    "recurrent_(" GDN_TOKENS ", Tensor(a!) state, *, str state_layout, " GDN_GATES ", " GDN_SLOTS
    ", str compute='auto', str? force_kernel=None) -> Tensor",

    "replay_verify_(" GDN_TOKENS
    ", Tensor(a!) state, Tensor num_accepted, Tensor(b!) record_k, "
    "Tensor(c!) record_v, Tensor(d!) record_g, *, str state_layout, " GDN_GATES
    ", Tensor? state_indices=None, int? null_slot=None, str? force_kernel=None) -> Tensor",

    "replay_commit_(Tensor(a!) state, Tensor num_accepted, Tensor record_k, Tensor record_v, "
    "Tensor record_g, *, str state_layout, Tensor? state_indices=None, int? null_slot=None, "
    "str? force_kernel=None) -> ()",

    // (g, beta): g float32; beta of dtype beta_dtype, float32 unless given; empty without b.
    "gating(Tensor a, Tensor A_log, Tensor? dt_bias=None, Tensor? b=None, *, "
    "float softplus_beta=1.0, float softplus_threshold=20.0, bool allow_neg_eigval=False, "
    "ScalarType? beta_dtype=None, str? force_kernel=None) -> (Tensor, Tensor)",

    "l2norm(Tensor x, *, float eps=1e-6, str? force_kernel=None) -> Tensor",

    "rms_norm_gated(Tensor x, Tensor z, Tensor weight, *, float eps=1e-6, str? force_kernel=None) "
    "-> Tensor",

    // (y, final_state), final_state [N,D,S]; S is the initial state's, W - 1 without one.
    "causal_conv1d(Tensor x, Tensor weight, Tensor? bias=None, Tensor? initial_state=None, *, "
    "bool silu=False, bool output_final_state=False, Tensor? cu_seqlens=None, " GDN_INITIAL_SLOTS
    ", str? force_kernel=None) -> (Tensor, Tensor)",

    // y. final_state_indices: initial_state_indices unless given.
    "causal_conv1d_(Tensor x, Tensor weight, Tensor? bias, Tensor(a!) state, *, bool silu=False, "
    "Tensor? cu_seqlens=None, " GDN_SLOTS ", str? force_kernel=None) -> Tensor",

    // (inverse, residual); method is "exact" or "neumann"; residual is empty unless asked for.
    "solve_tril(Tensor lower, *, str method='exact', int iterations=14, "
    "bool output_residual=False, str compute='auto', str? force_kernel=None) -> (Tensor, Tensor)",

    // The definition in double (src/reference/recurrent.h), not rounded: (out [B,T,HV,V],
    // final_states [N,HV,V,K]), float64 whatever the inputs' dtypes and the layout of
    // initial_state.
    "reference_recurrent(" GDN_TOKENS
    ", Tensor? initial_state=None, *, str state_layout, " GDN_GATES ") -> (Tensor, Tensor)",

    // The stages of the chunked form (src/reference/chunked.h), float64, of one sequence and one
    // value head, in this order:
    //   preprocess          q k [chunks,C,K], v [chunks,C,V], beta g G [chunks,C], state [V,K]
    //   phase A             A L T [chunks,C,C], u [chunks,C,V], w [chunks,C,K]
    //   phase B, legacy     v_new [chunks,C,V], states [chunks+1,V,K], out [chunks,C,V]
    //   phase B, optimized  attention [chunks,C,C], core [chunks,C,V], carry [chunks,C,K],
    //                       M [chunks,K,K], N [chunks,K,V], states [chunks+1,V,K],
    //                       out [chunks,C,V]
    "reference_chunk_stages(" GDN_TOKENS
    ", Tensor? initial_state=None, *, str state_layout, "
    "int sequence, int head, int chunk_size=64, str method='exact', int iterations=14, " GDN_GATES
    ") -> Tensor[]",

    // gradients.h.
    "_history(Tensor[] tensors) -> Tensor",

    // What `gdn info` says.
    "info() -> str",
    // The kernels that run on this machine, the preferred first. This and info() ask the driver of
    // the GPU, if the library has kernels for one.
    "kernels() -> str[]",
    // The library's.
    "version() -> str",
    // The code (gdn/status.h) of the last call of this thread that failed; 0 where none did.
    "last_status() -> int",
};

}  // namespace

void define_schemas(StableLibrary& library) {
  for (const char* schema : kSchemas) library.def(schema);
}

}  // namespace gdn::torch_binding
