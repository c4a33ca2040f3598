#include "on_device.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "backend.h"
#include "cuda/launch.h"
#include "cuda/table.h"
#include "device_image.h"
#include "gdn/ops.h"
#include "gdn/plan.h"

namespace gdn::tests {
namespace {

// From a problem back to arguments.

struct Extents {
  int64_t B, T;
};
Extents extents_of(const SequenceTable& sequences) {
  return {sequences.cu_seqlens.given() ? 1 : sequences.count, sequences.row_length};
}

TensorView view_of(const void* data, DType dtype, std::vector<int64_t> shape,
                   std::vector<int64_t> strides) {
  TensorView view;
  view.data = const_cast<void*>(data);
  view.dtype = dtype;
  view.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape);
  std::copy(strides.begin(), strides.end(), view.strides);
  return view;
}

TensorView tokens(const TokenTensor& x, const Extents& e, int64_t heads, int64_t dim = 0) {
  if (!x.given()) return {};
  std::vector<int64_t> shape = {e.B, e.T, heads};
  std::vector<int64_t> strides = {x.batch_stride, x.token_stride, x.head_stride};
  if (dim > 0) {
    shape.push_back(dim);
    strides.push_back(1);
  }
  return view_of(x.data, x.dtype, shape, strides);
}

TensorView vector(const FloatVector& x, int64_t n) {
  return x.given() ? view_of(x.data, x.dtype, {n}, {x.stride}) : TensorView();
}

TensorView indices(const IndexTensor& x, int64_t rows) {
  if (!x.given()) return {};
  if (x.columns == 0) return view_of(x.data, x.dtype, {rows}, {x.row_stride});
  return view_of(x.data, x.dtype, {rows, x.columns}, {x.row_stride, x.column_stride});
}

// [slots, inner...], contiguous inside a slot.
TensorView slots(const SlotTensor& x, std::vector<int64_t> inner) {
  if (!x.given()) return {};
  std::vector<int64_t> shape = {x.slots}, strides = {x.slot_stride};
  int64_t stride = 1;
  std::vector<int64_t> inner_strides(inner.size());
  for (size_t i = inner.size(); i-- > 0;) {
    inner_strides[i] = stride;
    stride *= inner[i];
  }
  shape.insert(shape.end(), inner.begin(), inner.end());
  strides.insert(strides.end(), inner_strides.begin(), inner_strides.end());
  return view_of(x.data, x.dtype, shape, strides);
}

TensorView state(const SlotTensor& x, const Shape& s) {
  return s.layout == StateLayout::kVK ? slots(x, {s.value_heads, s.V, s.K})
                                      : slots(x, {s.value_heads, s.K, s.V});
}

template <class Args>
void set_gates(const GateInputs& gates, const Extents& e, int64_t HV, Args* args) {
  args->g = tokens(gates.g, e, HV);
  args->a = tokens(gates.a, e, HV);
  args->A_log = vector(gates.A_log, HV);
  args->dt_bias = vector(gates.dt_bias, HV);
  args->softplus_beta = gates.softplus_beta;
  args->softplus_threshold = gates.softplus_threshold;
  args->beta = tokens(gates.beta, e, HV);
  args->b = tokens(gates.b, e, HV);
  args->allow_neg_eigval = gates.allow_neg_eigval;
}

template <class Args, class Problem>
void set_tokens(const Problem& p, Args* args) {
  const Extents e = extents_of(p.sequences);
  const Shape& s = p.shape;
  args->q = tokens(p.q, e, s.heads, s.K);
  args->k = tokens(p.k, e, s.heads, s.K);
  args->v = tokens(p.v, e, s.value_heads, s.V);
  args->out = tokens(p.out, e, s.value_heads, s.V);
  set_gates(p.gates, e, s.value_heads, args);
  args->cu_seqlens = indices(p.sequences.cu_seqlens, p.sequences.count + 1);
  args->scale = static_cast<double>(p.scale);
  args->use_qk_l2norm = p.use_qk_l2norm;
  args->l2norm_eps = static_cast<double>(p.l2norm_eps);
}

template <class Args>
void set_slots(const StateSlots& p, int64_t N, Args* args) {
  args->initial_state_indices = indices(p.initial_state_indices, N);
  args->final_state_indices = indices(p.final_state_indices, N);
  args->num_accepted = indices(p.num_accepted, N);
  if (p.has_initial_state != nullptr) {
    args->has_initial_state =
        view_of(p.has_initial_state, DType::kBool, {N}, {p.has_initial_state_stride});
  }
  args->null_slot = p.null_slot;
}

template <class Args>
void set_delta_rule(const DeltaRuleProblem& p, Args* args) {
  set_tokens(p, args);
  set_slots(p, p.sequences.count, args);
  args->initial_state = state(p.initial_state, p.shape);
  args->final_state = state(p.final_state, p.shape);
  args->compute = p.shape.compute;
}

ChunkArgs chunk_args(const DeltaRuleProblem& p) {
  ChunkArgs args(p.shape.layout);
  set_delta_rule(p, &args);
  args.chunk_size = p.shape.chunk_size;
  args.context_split = p.shape.context_split;
  args.checkpoint_every = p.checkpoint_every;
  if (p.checkpoint_every > 0) {
    args.checkpoints = state(p.checkpoints, p.shape);
    args.checkpoint_cu = indices(p.checkpoint_cu, p.sequences.count + 1);
  }
  return args;
}

RecurrentArgs recurrent_args(const DeltaRuleProblem& p) {
  RecurrentArgs args(p.shape.layout);
  set_delta_rule(p, &args);
  return args;
}

template <class Args>
void set_replay(const ReplayProblem& p, Args* args) {
  const Shape& s = p.shape;
  args->state = state(p.state, s);
  args->state_indices = indices(p.state_indices, p.sequences.count);
  args->num_accepted = indices(p.num_accepted, p.sequences.count);
  args->record_k = slots(p.record_k, {p.record_tokens, s.heads, s.K});
  args->record_v = slots(p.record_v, {p.record_tokens, s.value_heads, s.V});
  args->record_g = slots(p.record_g, {p.record_tokens, s.value_heads});
  args->null_slot = p.null_slot;
}

ReplayVerifyArgs verify_args(const ReplayProblem& p) {
  ReplayVerifyArgs args(p.shape.layout);
  set_tokens(p, &args);
  set_replay(p, &args);
  return args;
}

ReplayCommitArgs commit_args(const ReplayProblem& p) {
  ReplayCommitArgs args(p.shape.layout);
  set_replay(p, &args);
  return args;
}

GatingArgs gating_args(const GatingProblem& p) {
  const Extents e{p.shape.sequences, p.shape.max_length};
  const int64_t HV = p.shape.value_heads;
  GatingArgs args;
  set_gates(p.gates, e, HV, &args);
  args.g = tokens(p.g, e, HV);
  args.beta = tokens(p.beta, e, HV);
  return args;
}

// Rows [e0,e1,e2,D].
TensorView rows(const void* data, DType dtype, const int64_t (&extents)[3],
                const int64_t (&strides)[3], int64_t D) {
  return view_of(data, dtype, {extents[0], extents[1], extents[2], D},
                 {strides[0], strides[1], strides[2], 1});
}

L2normArgs l2norm_args(const L2normProblem& p) {
  L2normArgs args;
  args.x = rows(p.x, p.x_dtype, p.extents, p.x_strides, p.shape.K);
  args.y = rows(p.y, p.y_dtype, p.extents, p.y_strides, p.shape.K);
  args.eps = static_cast<double>(p.eps);
  return args;
}

RmsNormGatedArgs rms_norm_gated_args(const RmsNormGatedProblem& p) {
  RmsNormGatedArgs args;
  args.x = rows(p.x, p.dtype, p.extents, p.x_strides, p.shape.K);
  args.z = rows(p.z, p.dtype, p.extents, p.z_strides, p.shape.K);
  args.weight = vector(p.weight, p.shape.K);
  args.y = rows(p.y, p.y_dtype, p.extents, p.y_strides, p.shape.K);
  args.eps = static_cast<double>(p.eps);
  return args;
}

SolveTrilArgs solve_tril_args(const SolveTrilProblem& p) {
  const int64_t n = p.shape.K;
  const auto matrices = [&](const std::byte* data, const int64_t(&strides)[3], int64_t row) {
    return view_of(data, p.dtype, {p.extents[0], p.extents[1], p.extents[2], n, n},
                   {strides[0], strides[1], strides[2], row, 1});
  };
  SolveTrilArgs args;
  args.lower = matrices(p.lower, p.lower_strides, p.lower_row_stride);
  args.inverse = matrices(p.inverse, p.inverse_strides, p.inverse_row_stride);
  if (p.residual != nullptr) {
    args.residual = view_of(p.residual, DType::kF32, {p.extents[0], p.extents[1], p.extents[2]},
                            {p.residual_strides[0], p.residual_strides[1], p.residual_strides[2]});
  }
  args.method = p.method;
  args.iterations = p.iterations;
  args.compute = p.bf16_steps ? Compute::kBF16 : Compute::kAuto;
  return args;
}

TensorView channels(const ChannelStates& x, const Shape& s) {
  if (!x.given()) return {};
  return view_of(x.data, x.dtype, {x.slots, s.V, s.state_length},
                 {x.slot_stride, x.channel_stride, x.input_stride});
}

CausalConv1dArgs causal_conv1d_args(const CausalConv1dProblem& p) {
  const Extents e = extents_of(p.sequences);
  const Shape& s = p.shape;
  const auto one_head = [&](const TokenTensor& x) {
    return view_of(x.data, x.dtype, {e.B, e.T, s.V}, {x.batch_stride, x.token_stride, 1});
  };
  CausalConv1dArgs args;
  args.x = one_head(p.x);
  args.y = one_head(p.y);
  args.weight = view_of(p.weight.data, p.weight.dtype, {s.V, s.K},
                        {p.weight.row_stride, p.weight.column_stride});
  args.bias = vector(p.bias, s.V);
  args.silu = p.silu;
  args.cu_seqlens = indices(p.sequences.cu_seqlens, p.sequences.count + 1);
  set_slots(p, p.sequences.count, &args);
  args.initial_state = channels(p.initial_state, s);
  args.final_state = channels(p.final_state, s);
  return args;
}

// The tensors of arguments, and whether they are written.

template <class A>
void add_tokens(DeviceImage* image, A* a) {
  for (TensorView* view : {&a->q, &a->k, &a->v, &a->g, &a->A_log, &a->a, &a->dt_bias, &a->beta,
                           &a->b, &a->cu_seqlens}) {
    image->add(view, false);
  }
  image->add(&a->out, true);
}
template <class A>
void add_states(DeviceImage* image, A* a) {
  for (TensorView* view : {&a->initial_state, &a->initial_state_indices, &a->final_state_indices,
                           &a->has_initial_state, &a->num_accepted}) {
    image->add(view, false);
  }
  image->add(&a->final_state, true);
}
void add(DeviceImage* image, ChunkArgs* a) {
  add_tokens(image, a);
  add_states(image, a);
  image->add(&a->checkpoints, true);
  image->add(&a->checkpoint_cu, false);
}
void add(DeviceImage* image, RecurrentArgs* a) {
  add_tokens(image, a);
  add_states(image, a);
}
template <class A>
void add_records(DeviceImage* image, A* a, bool written) {
  image->add(&a->state, true);
  image->add(&a->state_indices, false);
  image->add(&a->num_accepted, false);
  for (TensorView* view : {&a->record_k, &a->record_v, &a->record_g}) image->add(view, written);
}
void add(DeviceImage* image, ReplayVerifyArgs* a) {
  add_tokens(image, a);
  add_records(image, a, true);
}
void add(DeviceImage* image, ReplayCommitArgs* a) { add_records(image, a, false); }
void add(DeviceImage* image, GatingArgs* a) {
  for (TensorView* view : {&a->a, &a->A_log, &a->dt_bias, &a->b}) image->add(view, false);
  for (TensorView* view : {&a->g, &a->beta}) image->add(view, true);
}
void add(DeviceImage* image, L2normArgs* a) {
  image->add(&a->x, false);
  image->add(&a->y, true);
}
void add(DeviceImage* image, RmsNormGatedArgs* a) {
  for (TensorView* view : {&a->x, &a->z, &a->weight}) image->add(view, false);
  image->add(&a->y, true);
}
void add(DeviceImage* image, SolveTrilArgs* a) {
  image->add(&a->lower, false);
  for (TensorView* view : {&a->inverse, &a->residual}) image->add(view, true);
}
void add(DeviceImage* image, CausalConv1dArgs* a) {
  for (TensorView* view : {&a->x, &a->weight, &a->bias, &a->cu_seqlens}) image->add(view, false);
  add_states(image, a);
  image->add(&a->y, true);
}

// The stream of this thread.
cudaStream_t stream() {
  thread_local cudaStream_t own = [] {
    cudaStream_t created = nullptr;
    cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking);
    return created;
  }();
  return own;
}

// body() captured into a graph, and the graph run.
template <class Body>
Status replay_from_graph(const Body& body) {
  cudaStream_t s = stream();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaError_t error = cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) return cuda::status_of(error);
  Status status = body();
  error = cudaStreamEndCapture(s, &graph);
  size_t nodes = 0;
  if (error == cudaSuccess) error = cudaGraphGetNodes(graph, nullptr, &nodes);
  if (status.ok() && error == cudaSuccess && nodes > 0) {
    error = cudaGraphInstantiate(&executable, graph, 0);
    if (error == cudaSuccess) error = cudaGraphLaunch(executable, s);
    if (error == cudaSuccess) error = cudaStreamSynchronize(s);
  }
  if (executable != nullptr) cudaGraphExecDestroy(executable);
  if (graph != nullptr) cudaGraphDestroy(graph);
  return status.ok() ? cuda::status_of(error) : status;
}

Status failed(std::string what) { return {StatusCode::kInternal, "on_device: " + std::move(what)}; }

template <class Args>
Status run(const Call& call, Args args, Status (*op)(Context&, const Args&)) {
  DeviceImage image;
  add(&image, &args);
  // The flag among the tensors, so that it is uploaded with them.
  int32_t raised = 0;
  TensorView flag(&raised, {1});
  image.add(&flag, true);
  Status status = image.place();
  if (!status.ok()) return status;
  Context context;
  context.kernel = call.context.kernel;
  context.stream = stream();
  context.out_of_range = static_cast<int32_t*>(flag.data);
  Plan plan;
  status = gdn::plan(context, args, &plan);
  if (!status.ok()) return status;
  context.workspace_bytes = plan.workspace_bytes;
  const size_t guarded = plan.workspace_bytes + 64;
  std::byte* workspace = device_memory(guarded, 1);
  context.workspace = plan.workspace_bytes > 0 ? workspace : nullptr;

  const auto poison = [&] {
    return cuda::status_of(cudaMemsetAsync(workspace, 0xff, guarded, stream()));
  };
  status = poison();
  if (status.ok()) status = image.upload(stream());
  if (status.ok()) status = op(context, args);
  if (!status.ok()) {
    cudaStreamSynchronize(stream());
    return status;
  }
  status = image.download(stream());
  if (!status.ok()) return status;
  if (const std::string what = image.stray_writes(); !what.empty()) return failed(what);
  std::vector<std::byte> end(64);
  cudaMemcpy(end.data(), workspace + plan.workspace_bytes, end.size(), cudaMemcpyDeviceToHost);
  for (std::byte b : end) {
    if (b != std::byte{0xff}) return failed("bytes after the workspace were written");
  }
  const std::vector<std::byte> first = image.bytes();

  status = poison();
  if (status.ok()) status = image.upload(stream());
  if (status.ok()) status = replay_from_graph([&] { return op(context, args); });
  if (status.ok()) status = image.download(stream());
  if (!status.ok()) return status;
  if (first != image.bytes()) return failed("a replayed graph gave other bits than the call");
  image.copy_back();
  return raised == 0 ? Status() : failed("out_of_range was raised");
}

Status run_chunk(const Call& call, const DeltaRuleProblem& p) {
  return run(call, chunk_args(p), &chunk);
}
Status run_recurrent(const Call& call, const DeltaRuleProblem& p) {
  return run(call, recurrent_args(p), &recurrent);
}
Status run_replay(const Call& call, const ReplayProblem& p) {
  return p.verifies() ? run(call, verify_args(p), &replay_verify)
                      : run(call, commit_args(p), &replay_commit);
}
Status run_gating(const Call& call, const GatingProblem& p) {
  return run(call, gating_args(p), &gating);
}
Status run_l2norm(const Call& call, const L2normProblem& p) {
  return run(call, l2norm_args(p), &l2norm);
}
Status run_solve_tril(const Call& call, const SolveTrilProblem& p) {
  return run(call, solve_tril_args(p), &solve_tril);
}
Status run_rms_norm_gated(const Call& call, const RmsNormGatedProblem& p) {
  return run(call, rms_norm_gated_args(p), &rms_norm_gated);
}
Status run_causal_conv1d(const Call& call, const CausalConv1dProblem& p) {
  return run(call, causal_conv1d_args(p), &causal_conv1d);
}

// The device's plan; its workspace is this backend's own business.
Status plan(const Shape& shape, const PlanRequest& request, Plan* result) {
  Shape on_device = shape;
  on_device.device = DeviceType::kCUDA;
  Status status = cuda::kBackend.plan(on_device, request, result);
  result->workspace_bytes_per_worker = 0;
  return status;
}

}  // namespace

void install_on_device() {
  static const Backend backend = {
      .name = "cuda on host tensors",
      .device = DeviceType::kCPU,
      .kernels = cuda::kBackend.kernels,
      .plan = &plan,
      .chunk = &run_chunk,
      .recurrent = &run_recurrent,
      .replay = &run_replay,
      .gating = &run_gating,
      .l2norm = &run_l2norm,
      .solve_tril = &run_solve_tril,
      .rms_norm_gated = &run_rms_norm_gated,
      .causal_conv1d = &run_causal_conv1d,
  };
  install(&backend);
}

}  // namespace gdn::tests
