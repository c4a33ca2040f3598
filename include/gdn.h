/* The C API of libgdn (C99 and later; C++ has <gdn/gdn.h>): the same operators, with the same
 * checks and the same bits. What an operator computes, and which shapes, dtypes and strides it
 * takes, is said in <gdn/ops.h>; fields and arguments have the same names here.
 *
 *   gdn_context context = {.size = sizeof context};
 *   gdn_l2norm_args args = {.size = sizeof args};
 *   args.x = (gdn_tensor){.data = x, .rank = 2, .shape = {rows, D}};
 *   args.y = (gdn_tensor){.data = y, .rank = 2, .shape = {rows, D}};
 *   char message[256];
 *   if (gdn_l2norm(&context, &args, message, sizeof message) != GDN_OK) puts(message);
 *
 * Structs start with their size, by which the library knows the caller's version, and zero in
 * every other field means "not given" or the default. The one exception is state_layout, which has
 * no default. An option whose default is not zero is a pointer, NULL for the default.
 *
 * Every function may be called from several threads at once. `message`, of message_bytes bytes,
 * receives what is wrong, cut to fit, or "" when nothing is; NULL and 0 do without it. When the
 * status is not GDN_OK, nothing else was written.
 */
#ifndef GDN_H_
#define GDN_H_

#include <stddef.h>
#include <stdint.h>

#include "gdn/export.h"
#include "gdn/version.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gdn_status {
  GDN_OK = 0,
  GDN_INVALID_ARGUMENT, /* a shape, dtype, stride, pointer or option is wrong */
  GDN_OUT_OF_RANGE,     /* a value stored in a tensor (cu_seqlens, an index) is wrong */
  GDN_UNSUPPORTED,      /* right, but no backend or the forced kernel cannot do it */
  GDN_OUT_OF_MEMORY,    /* an allocation failed */
  GDN_INTERNAL,         /* a defect of the library */
  GDN_DEVICE_ERROR      /* a device or its driver failed; the message has the error's name */
} gdn_status;

typedef enum gdn_dtype {
  GDN_FLOAT32 = 0,
  GDN_BFLOAT16,
  GDN_FLOAT16,
  GDN_INT32,
  GDN_INT64,
  GDN_BOOL /* one byte, 0 or 1 */
} gdn_dtype;

typedef enum gdn_device { GDN_CPU = 0, GDN_CUDA } gdn_device;

/* Which of a state's two last axes is contiguous. Has to be said: it cannot be guessed. */
typedef enum gdn_state_layout {
  GDN_STATE_LAYOUT_NOT_SET = 0,
  GDN_STATE_VK, /* [..,HV,V,K]: vLLM */
  GDN_STATE_KV  /* [..,HV,K,V]: flash-linear-attention, Hugging Face */
} gdn_state_layout;

/* What the matrix products take; gdn::Compute. */
typedef enum gdn_compute {
  GDN_COMPUTE_AUTO = 0,
  GDN_COMPUTE_FLOAT32,
  GDN_COMPUTE_BFLOAT16
} gdn_compute;

/* Whether a GPU walks long sequences in segments side by side; gdn::ContextSplit. */
typedef enum gdn_context_split {
  GDN_CONTEXT_SPLIT_AUTO = 0,
  GDN_CONTEXT_SPLIT_FIXED,
  GDN_CONTEXT_SPLIT_OFF
} gdn_context_split;

typedef enum gdn_solve_method { GDN_SOLVE_EXACT = 0, GDN_SOLVE_NEUMANN } gdn_solve_method;

/* A tensor, whose memory is the caller's. All zero is "not given". */
#define GDN_MAX_RANK 6
typedef struct gdn_tensor {
  void* data;     /* inputs are not written through it */
  int32_t dtype;  /* gdn_dtype */
  int32_t device; /* gdn_device */
  int64_t rank;   /* 0 to GDN_MAX_RANK */
  int64_t shape[GDN_MAX_RANK];
  int64_t strides[GDN_MAX_RANK]; /* in elements; all zero: contiguous */
} gdn_tensor;

/* "0.1.0", of the library that runs; GDN_VERSION is that of this header. */
GDN_API const char* gdn_version(void);

/* ---- Threads ---- */

typedef struct gdn_executor gdn_executor;

/* A pool of `threads` workers, the calling thread one of them; 0 or less takes the number of
 * processors. GDN_OUT_OF_MEMORY where the system starts no more threads. */
GDN_API gdn_status gdn_executor_create(int threads, gdn_executor** executor, char* message,
                                       size_t message_bytes);

/* One's own threads. run() calls task(closure, i, worker) once for every i in [0, count), in any
 * order and from any thread, and returns when all are done; worker is in [0, max_workers), and no
 * two tasks that run at the same time are given the same. Tasks differ in length: hand them out one
 * by one. */
typedef void (*gdn_task)(void* closure, int64_t i, int worker);
typedef struct gdn_executor_callbacks {
  size_t size;
  void* user; /* handed to run() */
  void (*run)(void* user, int64_t count, gdn_task task, void* closure);
  int64_t max_workers; /* >= 1 */
} gdn_executor_callbacks;
GDN_API gdn_status gdn_executor_create_from(const gdn_executor_callbacks* callbacks,
                                            gdn_executor** executor, char* message,
                                            size_t message_bytes);

/* Not while a call uses it. NULL is none. */
GDN_API void gdn_executor_destroy(gdn_executor* executor);

/* What every operator takes first; gdn::Context. */
typedef struct gdn_context {
  size_t size;
  gdn_executor* executor; /* NULL: the calling thread does all the work */
  void* workspace; /* aligned to 64 bytes, for one call at a time; NULL: the call allocates */
  size_t workspace_bytes; /* at least gdn_plan.workspace_bytes */
  const char* kernel;     /* forces a kernel by a name of gdn_get_kernel(); NULL: chosen */
  void* stream;           /* of a device that has them; the CPU ignores it */
  int32_t* out_of_range;  /* device memory: set to 1 where a GPU finds an index out of range */
} gdn_context;

/* ---- Operators ---- */

/* Prefill. */
typedef struct gdn_chunk_args {
  size_t size;
  gdn_tensor q, k, v, out;
  gdn_tensor g, A_log, a, dt_bias;
  gdn_tensor beta, b;
  gdn_tensor cu_seqlens;
  gdn_tensor initial_state, final_state;
  gdn_tensor initial_state_indices, final_state_indices;
  gdn_tensor has_initial_state, num_accepted;
  gdn_tensor checkpoints, checkpoint_cu;
  int64_t checkpoint_every;        /* 0: no checkpoints */
  const int64_t* chunk_size;       /* NULL: 64 */
  const int64_t* null_slot;        /* NULL: none */
  const double* scale;             /* NULL: K^-1/2 */
  const double* l2norm_eps;        /* NULL: 1e-6 */
  const float* softplus_beta;      /* NULL: 1 */
  const float* softplus_threshold; /* NULL: 20 */
  int32_t allow_neg_eigval;        /* 0 or 1 */
  int32_t use_qk_l2norm;           /* 0 or 1 */
  int32_t compute;                 /* gdn_compute */
  int32_t state_layout;            /* gdn_state_layout; has no default */
  int32_t context_split;           /* gdn_context_split */
  int32_t reserved;                /* 0 */
} gdn_chunk_args;
GDN_API gdn_status gdn_chunk(const gdn_context* context, const gdn_chunk_args* args, char* message,
                             size_t message_bytes);

/* Decode; fields as above. */
typedef struct gdn_recurrent_args {
  size_t size;
  gdn_tensor q, k, v, out;
  gdn_tensor g, A_log, a, dt_bias;
  gdn_tensor beta, b;
  gdn_tensor cu_seqlens;
  gdn_tensor initial_state, final_state;
  gdn_tensor initial_state_indices, final_state_indices;
  gdn_tensor has_initial_state, num_accepted;
  const int64_t* null_slot;
  const double* scale;
  const double* l2norm_eps;
  const float* softplus_beta;
  const float* softplus_threshold;
  int32_t allow_neg_eigval;
  int32_t use_qk_l2norm;
  int32_t compute;
  int32_t state_layout;
} gdn_recurrent_args;
GDN_API gdn_status gdn_recurrent(const gdn_context* context, const gdn_recurrent_args* args,
                                 char* message, size_t message_bytes);

/* Speculative decode with records in place of a state per token. */
typedef struct gdn_replay_verify_args {
  size_t size;
  gdn_tensor q, k, v, out;
  gdn_tensor g, A_log, a, dt_bias;
  gdn_tensor beta, b;
  gdn_tensor cu_seqlens;
  gdn_tensor state, state_indices, num_accepted;
  gdn_tensor record_k, record_v, record_g;
  const int64_t* null_slot;
  const double* scale;
  const double* l2norm_eps;
  const float* softplus_beta;
  const float* softplus_threshold;
  int32_t allow_neg_eigval;
  int32_t use_qk_l2norm;
  int32_t state_layout;
  int32_t reserved; /* 0 */
} gdn_replay_verify_args;
GDN_API gdn_status gdn_replay_verify(const gdn_context* context, const gdn_replay_verify_args* args,
                                     char* message, size_t message_bytes);

typedef struct gdn_replay_commit_args {
  size_t size;
  gdn_tensor state, state_indices, num_accepted;
  gdn_tensor record_k, record_v, record_g;
  const int64_t* null_slot;
  int32_t state_layout;
  int32_t reserved; /* 0 */
} gdn_replay_commit_args;
GDN_API gdn_status gdn_replay_commit(const gdn_context* context, const gdn_replay_commit_args* args,
                                     char* message, size_t message_bytes);

typedef struct gdn_gating_args {
  size_t size;
  gdn_tensor a, A_log, dt_bias, b;
  gdn_tensor g, beta; /* written */
  const float* softplus_beta;
  const float* softplus_threshold;
  int32_t allow_neg_eigval;
  int32_t reserved; /* 0 */
} gdn_gating_args;
GDN_API gdn_status gdn_gating(const gdn_context* context, const gdn_gating_args* args,
                              char* message, size_t message_bytes);

typedef struct gdn_l2norm_args {
  size_t size;
  gdn_tensor x, y;
  const double* eps; /* NULL: 1e-6 */
} gdn_l2norm_args;
GDN_API gdn_status gdn_l2norm(const gdn_context* context, const gdn_l2norm_args* args,
                              char* message, size_t message_bytes);

typedef struct gdn_rms_norm_gated_args {
  size_t size;
  gdn_tensor x, z, weight, y;
  const double* eps; /* NULL: 1e-6 */
} gdn_rms_norm_gated_args;
GDN_API gdn_status gdn_rms_norm_gated(const gdn_context* context,
                                      const gdn_rms_norm_gated_args* args, char* message,
                                      size_t message_bytes);

typedef struct gdn_causal_conv1d_args {
  size_t size;
  gdn_tensor x, weight, bias, y;
  gdn_tensor cu_seqlens;
  gdn_tensor initial_state, final_state;
  gdn_tensor initial_state_indices, final_state_indices;
  gdn_tensor has_initial_state, num_accepted;
  const int64_t* null_slot;
  int32_t silu;     /* 0 or 1 */
  int32_t reserved; /* 0 */
} gdn_causal_conv1d_args;
GDN_API gdn_status gdn_causal_conv1d(const gdn_context* context, const gdn_causal_conv1d_args* args,
                                     char* message, size_t message_bytes);

typedef struct gdn_solve_tril_args {
  size_t size;
  gdn_tensor lower, inverse, residual;
  const int64_t* iterations; /* NULL: 14 */
  int32_t method;            /* gdn_solve_method */
  int32_t compute;           /* gdn_compute */
} gdn_solve_tril_args;
GDN_API gdn_status gdn_solve_tril(const gdn_context* context, const gdn_solve_tril_args* args,
                                  char* message, size_t message_bytes);

/* ---- Plans ---- */

/* What a call would do; gdn::Plan. The caller sets size; what a newer caller's struct has beyond
 * the library's becomes zero. */
typedef struct gdn_plan {
  size_t size;
  size_t workspace_bytes;
  int64_t workers;
  int64_t tasks;
  char backend[32];
  char kernel[32];
  char text[512];                               /* one line for a person */
  int64_t first_segment_tokens, segment_tokens; /* of a context split; 0: there is none */
} gdn_plan;

/* Checks the arguments as the operator does, then plans. */
GDN_API gdn_status gdn_plan_chunk(const gdn_context* context, const gdn_chunk_args* args,
                                  gdn_plan* plan, char* message, size_t message_bytes);
GDN_API gdn_status gdn_plan_recurrent(const gdn_context* context, const gdn_recurrent_args* args,
                                      gdn_plan* plan, char* message, size_t message_bytes);
GDN_API gdn_status gdn_plan_replay_verify(const gdn_context* context,
                                          const gdn_replay_verify_args* args, gdn_plan* plan,
                                          char* message, size_t message_bytes);
GDN_API gdn_status gdn_plan_replay_commit(const gdn_context* context,
                                          const gdn_replay_commit_args* args, gdn_plan* plan,
                                          char* message, size_t message_bytes);
GDN_API gdn_status gdn_plan_gating(const gdn_context* context, const gdn_gating_args* args,
                                   gdn_plan* plan, char* message, size_t message_bytes);
GDN_API gdn_status gdn_plan_l2norm(const gdn_context* context, const gdn_l2norm_args* args,
                                   gdn_plan* plan, char* message, size_t message_bytes);
GDN_API gdn_status gdn_plan_rms_norm_gated(const gdn_context* context,
                                           const gdn_rms_norm_gated_args* args, gdn_plan* plan,
                                           char* message, size_t message_bytes);
GDN_API gdn_status gdn_plan_causal_conv1d(const gdn_context* context,
                                          const gdn_causal_conv1d_args* args, gdn_plan* plan,
                                          char* message, size_t message_bytes);
GDN_API gdn_status gdn_plan_solve_tril(const gdn_context* context, const gdn_solve_tril_args* args,
                                       gdn_plan* plan, char* message, size_t message_bytes);

/* A kernel of this build; gdn::KernelInfo. The caller sets size. */
typedef struct gdn_kernel {
  size_t size;
  char backend[32];
  char name[32]; /* what gdn_context.kernel takes */
  char description[128];
  int64_t supported; /* by this machine: 0 or 1 */
} gdn_kernel;

/* How many kernels there are; -1 when memory has run out. */
GDN_API int64_t gdn_kernel_count(void);
/* Kernel `index` of them, the preferred first. */
GDN_API gdn_status gdn_get_kernel(int64_t index, gdn_kernel* kernel, char* message,
                                  size_t message_bytes);

#ifdef __cplusplus
}
#endif

#endif /* GDN_H_ */
