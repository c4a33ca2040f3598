// The C API: structs to and from those of the C++ API, which does everything else. What is refused
// here is what the conversion itself cannot do.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "gdn.h"
#include "gdn/gdn.h"
#include "guarded.h"

struct gdn_executor {
  std::unique_ptr<gdn::Executor> executor;
};

namespace gdn {
namespace {

// The values of enumerations are handed through as numbers.
static_assert(GDN_OK == static_cast<int>(StatusCode::kOk));
static_assert(GDN_INVALID_ARGUMENT == static_cast<int>(StatusCode::kInvalidArgument));
static_assert(GDN_OUT_OF_RANGE == static_cast<int>(StatusCode::kOutOfRange));
static_assert(GDN_UNSUPPORTED == static_cast<int>(StatusCode::kUnsupported));
static_assert(GDN_OUT_OF_MEMORY == static_cast<int>(StatusCode::kOutOfMemory));
static_assert(GDN_INTERNAL == static_cast<int>(StatusCode::kInternal));
static_assert(GDN_DEVICE_ERROR == static_cast<int>(StatusCode::kDeviceError));
static_assert(GDN_FLOAT32 == static_cast<int>(DType::kF32));
static_assert(GDN_BFLOAT16 == static_cast<int>(DType::kBF16));
static_assert(GDN_FLOAT16 == static_cast<int>(DType::kF16));
static_assert(GDN_INT32 == static_cast<int>(DType::kI32));
static_assert(GDN_INT64 == static_cast<int>(DType::kI64));
static_assert(GDN_BOOL == static_cast<int>(DType::kBool));
static_assert(GDN_CPU == static_cast<int>(DeviceType::kCPU));
static_assert(GDN_CUDA == static_cast<int>(DeviceType::kCUDA));
static_assert(GDN_COMPUTE_AUTO == static_cast<int>(Compute::kAuto));
static_assert(GDN_COMPUTE_FLOAT32 == static_cast<int>(Compute::kF32));
static_assert(GDN_COMPUTE_BFLOAT16 == static_cast<int>(Compute::kBF16));
static_assert(GDN_SOLVE_EXACT == static_cast<int>(SolveMethod::kExact));
static_assert(GDN_SOLVE_NEUMANN == static_cast<int>(SolveMethod::kNeumann));
static_assert(GDN_MAX_RANK == TensorView::kMaxRank);

template <class T>
constexpr const char* type_name = nullptr;
#define GDN_C_STRUCT(type) \
  template <>              \
  constexpr const char* type_name<type> = #type;
GDN_C_STRUCT(gdn_executor_callbacks)
GDN_C_STRUCT(gdn_context)
GDN_C_STRUCT(gdn_chunk_args)
GDN_C_STRUCT(gdn_recurrent_args)
GDN_C_STRUCT(gdn_replay_verify_args)
GDN_C_STRUCT(gdn_replay_commit_args)
GDN_C_STRUCT(gdn_gating_args)
GDN_C_STRUCT(gdn_l2norm_args)
GDN_C_STRUCT(gdn_rms_norm_gated_args)
GDN_C_STRUCT(gdn_causal_conv1d_args)
GDN_C_STRUCT(gdn_solve_tril_args)
GDN_C_STRUCT(gdn_plan)
GDN_C_STRUCT(gdn_kernel)
#undef GDN_C_STRUCT

// The size of a struct in the first version of the library, 0.1. When one grows, it goes here.
template <class T>
constexpr size_t kFirstSize = sizeof(T);
template <>
constexpr size_t kFirstSize<gdn_context> = offsetof(gdn_context, out_of_range);
template <>
constexpr size_t kFirstSize<gdn_chunk_args> = offsetof(gdn_chunk_args, context_split);
template <>
constexpr size_t kFirstSize<gdn_plan> = offsetof(gdn_plan, first_segment_tokens);

// No struct of any version is larger: more is memory that nobody initialised.
constexpr size_t kLargestSize = 1 << 16;

Status invalid(const char* function, const std::string& message) {
  return {StatusCode::kInvalidArgument, std::string(function) + ": " + message};
}

// Given, and of a size that some version of the library has.
template <class T>
Status check_struct(const char* function, const char* name, const T* given) {
  if (given == nullptr) {
    return invalid(function, std::string(name) + " is NULL, expected a " + type_name<T>);
  }
  const size_t size = given->size;
  if (size < kFirstSize<T> || size > kLargestSize) {
    return invalid(function, std::string(name) + ".size is " + std::to_string(size) +
                                 ", expected sizeof(" + type_name<T> + "), here " +
                                 std::to_string(sizeof(T)));
  }
  return {};
}

// The caller's struct as this version knows it: fields that an older caller lacks are zero, and
// those that a newer one has more must be.
template <class T>
Status read_struct(const char* function, const char* name, const T* given, T* copy) {
  if (Status status = check_struct(function, name, given); !status.ok()) return status;
  const auto* bytes = reinterpret_cast<const std::byte*>(given);
  *copy = T{};
  std::memcpy(copy, bytes, std::min(given->size, sizeof(T)));
  for (size_t i = sizeof(T); i < given->size; ++i) {
    if (bytes[i] != std::byte{0}) {
      return {StatusCode::kUnsupported, std::string(function) + ": " + name +
                                            " sets a field that version " GDN_VERSION
                                            " of the library does not have"};
    }
  }
  if constexpr (requires { copy->reserved; }) {
    if (copy->reserved != 0) {
      return invalid(function, std::string(name) + ".reserved is " +
                                   std::to_string(copy->reserved) + ", expected 0");
    }
  }
  if constexpr (requires { copy->state_layout; }) {
    if (copy->state_layout != GDN_STATE_VK && copy->state_layout != GDN_STATE_KV) {
      return invalid(function, "state_layout is " +
                                   (copy->state_layout == GDN_STATE_LAYOUT_NOT_SET
                                        ? "not set"
                                        : std::to_string(copy->state_layout)) +
                                   ", expected GDN_STATE_VK or GDN_STATE_KV");
    }
  }
  return {};
}

// As much of a result as the caller has room for; what a newer caller's struct has beyond it
// becomes zero.
template <class T>
void write_struct(T result, T* given) {
  const size_t size = given->size;
  result.size = size;
  std::memset(static_cast<void*>(given), 0, size);
  std::memcpy(given, &result, std::min(size, sizeof(T)));
}

void copy_text(std::string_view text, char* to, size_t bytes) {
  if (to == nullptr || bytes == 0) return;
  const size_t length = std::min(text.size(), bytes - 1);
  std::memcpy(to, text.data(), length);
  to[length] = '\0';
}

gdn_status finish(const Status& status, char* message, size_t message_bytes) {
  copy_text(status.message(), message, message_bytes);
  return static_cast<gdn_status>(status.code());
}

// A number that no enumerator has becomes one that the checks refuse.
template <class Enum>
Enum enum_of(int32_t value) {
  return static_cast<Enum>(value >= 0 && value < 255 ? value : 255);
}

StateLayout layout_of(int32_t value) {
  return value == GDN_STATE_VK ? StateLayout::kVK : StateLayout::kKV;
}

TensorView view_of(const gdn_tensor& tensor) {
  TensorView view;
  if (tensor.data == nullptr && tensor.rank == 0) return view;
  view.data = tensor.data;
  view.dtype = enum_of<DType>(tensor.dtype);
  view.device = enum_of<DeviceType>(tensor.device);
  if (tensor.rank < 0 || tensor.rank > GDN_MAX_RANK) {
    view.rank = GDN_MAX_RANK + 1;  // which the checks refuse
    return view;
  }
  view.rank = static_cast<int>(tensor.rank);
  std::copy_n(tensor.shape, view.rank, view.shape);
  std::copy_n(tensor.strides, view.rank, view.strides);
  if (std::all_of(view.strides, view.strides + view.rank, [](int64_t s) { return s == 0; }))
    view.make_contiguous();
  return view;
}

// An option that is not given stays at the C++ API's default.
template <class T, class Option>
void set_if(const T* given, Option* option) {
  if (given != nullptr) *option = *given;
}

template <class C, class Args>
void convert_gates(const C& c, Args* args) {
  args->g = view_of(c.g);
  args->A_log = view_of(c.A_log);
  args->a = view_of(c.a);
  args->dt_bias = view_of(c.dt_bias);
  args->beta = view_of(c.beta);
  args->b = view_of(c.b);
  set_if(c.softplus_beta, &args->softplus_beta);
  set_if(c.softplus_threshold, &args->softplus_threshold);
  args->allow_neg_eigval = c.allow_neg_eigval != 0;
}

template <class C, class Args>
void convert_qkv(const C& c, Args* args) {
  args->q = view_of(c.q);
  args->k = view_of(c.k);
  args->v = view_of(c.v);
  args->out = view_of(c.out);
  args->cu_seqlens = view_of(c.cu_seqlens);
  set_if(c.scale, &args->scale);
  args->use_qk_l2norm = c.use_qk_l2norm != 0;
  set_if(c.l2norm_eps, &args->l2norm_eps);
}

template <class C, class Args>
void convert_states(const C& c, Args* args) {
  args->initial_state = view_of(c.initial_state);
  args->final_state = view_of(c.final_state);
  args->initial_state_indices = view_of(c.initial_state_indices);
  args->final_state_indices = view_of(c.final_state_indices);
  args->has_initial_state = view_of(c.has_initial_state);
  args->num_accepted = view_of(c.num_accepted);
  set_if(c.null_slot, &args->null_slot);
}

template <class C, class Args>
void convert_records(const C& c, Args* args) {
  args->state = view_of(c.state);
  args->state_indices = view_of(c.state_indices);
  args->num_accepted = view_of(c.num_accepted);
  args->record_k = view_of(c.record_k);
  args->record_v = view_of(c.record_v);
  args->record_g = view_of(c.record_g);
  set_if(c.null_slot, &args->null_slot);
}

template <class C>
void convert_delta_rule(const C& c, DeltaRuleArgs* args) {
  convert_qkv(c, args);
  convert_gates(c, args);
  convert_states(c, args);
  args->compute = enum_of<Compute>(c.compute);
}

ChunkArgs convert(const gdn_chunk_args& c) {
  ChunkArgs args(layout_of(c.state_layout));
  convert_delta_rule(c, &args);
  set_if(c.chunk_size, &args.chunk_size);
  args.context_split = enum_of<ContextSplit>(c.context_split);
  args.checkpoint_every = c.checkpoint_every;
  args.checkpoints = view_of(c.checkpoints);
  args.checkpoint_cu = view_of(c.checkpoint_cu);
  return args;
}

RecurrentArgs convert(const gdn_recurrent_args& c) {
  RecurrentArgs args(layout_of(c.state_layout));
  convert_delta_rule(c, &args);
  return args;
}

ReplayVerifyArgs convert(const gdn_replay_verify_args& c) {
  ReplayVerifyArgs args(layout_of(c.state_layout));
  convert_qkv(c, &args);
  convert_gates(c, &args);
  convert_records(c, &args);
  return args;
}

ReplayCommitArgs convert(const gdn_replay_commit_args& c) {
  ReplayCommitArgs args(layout_of(c.state_layout));
  convert_records(c, &args);
  return args;
}

GatingArgs convert(const gdn_gating_args& c) {
  GatingArgs args;
  convert_gates(c, &args);
  return args;
}

L2normArgs convert(const gdn_l2norm_args& c) {
  L2normArgs args;
  args.x = view_of(c.x);
  args.y = view_of(c.y);
  set_if(c.eps, &args.eps);
  return args;
}

RmsNormGatedArgs convert(const gdn_rms_norm_gated_args& c) {
  RmsNormGatedArgs args;
  args.x = view_of(c.x);
  args.z = view_of(c.z);
  args.weight = view_of(c.weight);
  args.y = view_of(c.y);
  set_if(c.eps, &args.eps);
  return args;
}

CausalConv1dArgs convert(const gdn_causal_conv1d_args& c) {
  CausalConv1dArgs args;
  args.x = view_of(c.x);
  args.weight = view_of(c.weight);
  args.bias = view_of(c.bias);
  args.y = view_of(c.y);
  args.silu = c.silu != 0;
  args.cu_seqlens = view_of(c.cu_seqlens);
  convert_states(c, &args);
  return args;
}

SolveTrilArgs convert(const gdn_solve_tril_args& c) {
  SolveTrilArgs args;
  args.lower = view_of(c.lower);
  args.inverse = view_of(c.inverse);
  args.residual = view_of(c.residual);
  args.method = enum_of<SolveMethod>(c.method);
  set_if(c.iterations, &args.iterations);
  args.compute = enum_of<Compute>(c.compute);
  return args;
}

Context convert(const gdn_context& c) {
  return {.executor = c.executor != nullptr ? c.executor->executor.get() : nullptr,
          .workspace = c.workspace,
          .workspace_bytes = c.workspace_bytes,
          .kernel = c.kernel,
          .stream = c.stream,
          .out_of_range = c.out_of_range};
}

// Calls body(Context&, args) with the converted arguments of an operator.
template <class C, class Body>
gdn_status with_args(Op op, const gdn_context* c_context, const C* c_args, char* message,
                     size_t message_bytes, const Body& body) {
  const Status status = guarded(name_of(op), [&]() -> Status {
    gdn_context context_copy;
    C args_copy;
    if (Status s = read_struct(name_of(op), "context", c_context, &context_copy); !s.ok()) return s;
    if (Status s = read_struct(name_of(op), "args", c_args, &args_copy); !s.ok()) return s;
    Context context = convert(context_copy);
    return body(context, convert(args_copy));
  });
  return finish(status, message, message_bytes);
}

template <class C>
gdn_status plan_args(Op op, const gdn_context* context, const C* args, gdn_plan* plan,
                     char* message, size_t message_bytes) {
  return with_args(op, context, args, message, message_bytes,
                   [&](const Context& converted, const auto& converted_args) -> Status {
                     if (Status s = check_struct(name_of(op), "plan", plan); !s.ok()) return s;
                     Plan made;
                     if (Status s = gdn::plan(converted, converted_args, &made); !s.ok()) return s;
                     gdn_plan result = {};
                     result.workspace_bytes = made.workspace_bytes;
                     result.workers = made.workers;
                     result.tasks = made.tasks;
                     copy_text(made.backend, result.backend, sizeof result.backend);
                     copy_text(made.kernel, result.kernel, sizeof result.kernel);
                     copy_text(to_string(made), result.text, sizeof result.text);
                     result.first_segment_tokens = made.first_segment_tokens;
                     result.segment_tokens = made.segment_tokens;
                     write_struct(result, plan);
                     return {};
                   });
}

class CallbackExecutor final : public Executor {
 public:
  explicit CallbackExecutor(const gdn_executor_callbacks& callbacks) : callbacks_(callbacks) {}
  int max_workers() const override { return static_cast<int>(callbacks_.max_workers); }
  void run(int64_t count, Task task, void* closure) override {
    callbacks_.run(callbacks_.user, count, task, closure);
  }

 private:
  gdn_executor_callbacks callbacks_;
};

template <class Make>
gdn_status create_executor(const char* function, gdn_executor** executor, char* message,
                           size_t message_bytes, const Make& make) {
  const Status status = guarded(function, [&]() -> Status {
    if (executor == nullptr) {
      return invalid(function, "executor is NULL, expected where to put the new one");
    }
    auto handle = std::make_unique<gdn_executor>();
    if (Status s = make(&handle->executor); !s.ok()) return s;
    *executor = handle.release();
    return {};
  });
  return finish(status, message, message_bytes);
}

}  // namespace
}  // namespace gdn

extern "C" {

const char* gdn_version(void) { return GDN_VERSION; }

gdn_status gdn_executor_create(int threads, gdn_executor** executor, char* message,
                               size_t message_bytes) {
  const char* function = "gdn_executor_create";
  return gdn::create_executor(
      function, executor, message, message_bytes,
      [&](std::unique_ptr<gdn::Executor>* made) -> gdn::Status {
        try {
          *made = gdn::make_thread_executor(threads);
        } catch (const std::system_error&) {  // the system's limits, no defect of ours
          return {gdn::StatusCode::kOutOfMemory, std::string(function) + ": threads is " +
                                                     std::to_string(threads) +
                                                     ", more than the system starts"};
        }
        return {};
      });
}

gdn_status gdn_executor_create_from(const gdn_executor_callbacks* callbacks,
                                    gdn_executor** executor, char* message, size_t message_bytes) {
  const char* function = "gdn_executor_create_from";
  return gdn::create_executor(
      function, executor, message, message_bytes,
      [&](std::unique_ptr<gdn::Executor>* made) -> gdn::Status {
        gdn_executor_callbacks copy;
        gdn::Status status = gdn::read_struct(function, "callbacks", callbacks, &copy);
        if (!status.ok()) return status;
        if (copy.run == nullptr) {
          return gdn::invalid(function, "callbacks.run is NULL, expected a function");
        }
        if (copy.max_workers < 1 || copy.max_workers > INT32_MAX) {
          return gdn::invalid(function, "callbacks.max_workers is " +
                                            std::to_string(copy.max_workers) +
                                            ", expected at least 1");
        }
        *made = std::make_unique<gdn::CallbackExecutor>(copy);
        return {};
      });
}

void gdn_executor_destroy(gdn_executor* executor) { delete executor; }

#define GDN_OPERATOR(name, op)                                                                    \
  gdn_status gdn_##name(const gdn_context* context, const gdn_##name##_args* args, char* message, \
                        size_t message_bytes) {                                                   \
    return gdn::with_args(gdn::Op::op, context, args, message, message_bytes,                     \
                          [](gdn::Context& c, const auto& a) { return gdn::name(c, a); });        \
  }                                                                                               \
  gdn_status gdn_plan_##name(const gdn_context* context, const gdn_##name##_args* args,           \
                             gdn_plan* plan, char* message, size_t message_bytes) {               \
    return gdn::plan_args(gdn::Op::op, context, args, plan, message, message_bytes);              \
  }
GDN_OPERATOR(chunk, kChunk)
GDN_OPERATOR(recurrent, kRecurrent)
GDN_OPERATOR(replay_verify, kReplayVerify)
GDN_OPERATOR(replay_commit, kReplayCommit)
GDN_OPERATOR(gating, kGating)
GDN_OPERATOR(l2norm, kL2norm)
GDN_OPERATOR(rms_norm_gated, kRmsNormGated)
GDN_OPERATOR(causal_conv1d, kCausalConv1d)
GDN_OPERATOR(solve_tril, kSolveTril)
#undef GDN_OPERATOR

int64_t gdn_kernel_count(void) {
  int64_t count = -1;
  const gdn::Status status = gdn::guarded("gdn_kernel_count", [&]() -> gdn::Status {
    count = static_cast<int64_t>(gdn::kernels().size());
    return {};
  });
  return status.ok() ? count : -1;
}

gdn_status gdn_get_kernel(int64_t index, gdn_kernel* kernel, char* message, size_t message_bytes) {
  const char* function = "gdn_get_kernel";
  const gdn::Status status = gdn::guarded(function, [&]() -> gdn::Status {
    gdn::Status wrong = gdn::check_struct(function, "kernel", kernel);
    if (!wrong.ok()) return wrong;
    const auto all = gdn::kernels();
    if (index < 0 || index >= static_cast<int64_t>(all.size())) {
      return {gdn::StatusCode::kOutOfRange, std::string(function) + ": index is " +
                                                std::to_string(index) + ", expected 0 to " +
                                                std::to_string(all.size() - 1)};
    }
    const gdn::KernelInfo& info = all[static_cast<size_t>(index)];
    gdn_kernel result = {};
    gdn::copy_text(info.backend, result.backend, sizeof result.backend);
    gdn::copy_text(info.name, result.name, sizeof result.name);
    gdn::copy_text(info.description, result.description, sizeof result.description);
    result.supported = info.supported ? 1 : 0;
    gdn::write_struct(result, kernel);
    return {};
  });
  return gdn::finish(status, message, message_bytes);
}

}  // extern "C"
