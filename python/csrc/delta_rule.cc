#include "delta_rule.h"

#include <cstring>

#include "gradients.h"
#include "registration.h"

namespace gdn::torch_binding {
namespace {

// What only chunk has.
struct ChunkOptions {
  int64_t chunk_size;
  Text context_split;
  explicit ChunkOptions(Arguments& in) : chunk_size(in.integer()), context_split(in.text()) {}

  void put(const char* op, ChunkArgs* args) const {
    args->chunk_size = chunk_size;
    args->context_split = context_split_named(op, context_split.view());
  }
};

// What only recurrent has.
struct RecurrentOptions {
  explicit RecurrentOptions(Arguments&) {}
  void put(const char*, RecurrentArgs*) const {}
};

// chunk and recurrent.
template <class Args, Status (*operation)(Context&, const Args&), class Options>
void functional(const char* op, StableIValue* stack) {
  Arguments in(stack);
  const Tokens tokens(in);
  const Tensor initial_state = in.optional_tensor();
  const Text layout = in.text();
  const bool output_final_state = in.boolean();
  const Gates gates(in);
  const InitialSlots slots(in);
  const Options options(in);
  const Text compute = in.text();
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place(op);

  Args args(layout_named(op, layout.view()));
  tokens.put(&args);
  gates.put(&args);
  slots.put(&args);
  args.compute = compute_named(op, compute.view());
  args.initial_state = initial_state.view();
  options.put(op, &args);
  Tensor out = tokens.new_out(place);
  args.out = out.view();
  Tensor final_state;
  const int64_t sequences = sequence_count(tokens.q, gates.cu_seqlens);
  if (output_final_state && sequences >= 0 && args.q.rank == 4 && args.v.rank == 4) {
    const bool vk = args.state_layout == StateLayout::kVK;
    const int64_t K = args.q.shape[3], V = args.v.shape[3];
    const int64_t shape[] = {sequences, args.v.shape[2], vk ? V : K, vk ? K : V};
    final_state = new_final_state(sequences, initial_state, shape, 4,
                                  slots.initial_state_indices.given(), place);
    args.final_state = final_state.view();
  }
  run(operation, args, place, kernel);
  if (!final_state.given()) final_state = empty_tensor(aoti_torch_dtype_float32(), place);
  stack[0] = result(std::move(out));
  stack[1] = result(std::move(final_state));
}

}  // namespace

Tensor Tokens::new_out(Place place) const {
  const TensorView& like = v.view();
  const int rank = like.rank <= TensorView::kMaxRank ? like.rank : 0;
  return new_tensor(like.shape, rank, q.torch_dtype(), place);
}

int64_t sequence_count(const Tensor& rows, const Tensor& cu_seqlens) {
  if (cu_seqlens.given()) {
    return cu_seqlens.view().rank == 1 ? cu_seqlens.view().shape[0] - 1 : -1;
  }
  return rows.view().rank >= 1 ? rows.view().shape[0] : -1;
}

Tensor new_final_state(int64_t sequences, const Tensor& initial, const int64_t* shape, int rank,
                       bool zeros, Place place) {
  int64_t extents[TensorView::kMaxRank] = {sequences};
  const bool like = initial.given() && initial.view().rank == rank;
  for (int i = 1; i < rank; ++i) extents[i] = like ? initial.view().shape[i] : shape[i];
  Tensor state = new_tensor(
      extents, rank, initial.given() ? initial.torch_dtype() : aoti_torch_dtype_float32(), place);
  const TensorView& view = state.view();
  if (!zeros || view.size() == 0) return state;
  if (place.on_gpu()) {
    require_ok(aoti_torch_zero_(state.handle()), "zeros");
  } else {
    std::memset(view.data, 0, static_cast<size_t>(view.size() * size_of(view.dtype)));
  }
  return state;
}

void chunk(StableIValue* stack, uint64_t, uint64_t) {
  functional<ChunkArgs, gdn::chunk, ChunkOptions>("gdn.chunk", stack);
}

void recurrent(StableIValue* stack, uint64_t, uint64_t) {
  functional<RecurrentArgs, gdn::recurrent, RecurrentOptions>("gdn.recurrent", stack);
}

void chunk_(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tokens tokens(in);
  const Tensor state = in.tensor();
  const Text layout = in.text();
  const Gates gates(in);
  const Slots slots(in);
  const ChunkOptions options(in);
  const int64_t checkpoint_every = in.integer();
  const Tensor checkpoints = in.optional_tensor();
  const Tensor checkpoint_cu = in.optional_tensor();
  const Text compute = in.text();
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place("gdn.chunk");

  require_no_gradients(
      "gdn.chunk_", {&tokens.q, &tokens.k, &tokens.v, &tokens.g, &tokens.beta, &state, &gates.A_log,
                     &gates.a, &gates.dt_bias, &gates.b, &checkpoints});
  count_write({&state, &checkpoints});
  ChunkArgs args(layout_named("gdn.chunk", layout.view()));
  tokens.put(&args);
  gates.put(&args);
  slots.put(state, &args);
  options.put("gdn.chunk", &args);
  args.checkpoint_every = checkpoint_every;
  args.checkpoints = checkpoints.view();
  args.checkpoint_cu = checkpoint_cu.view();
  args.compute = compute_named("gdn.chunk", compute.view());
  Tensor out = tokens.new_out(place);
  args.out = out.view();
  run(gdn::chunk, args, place, kernel);
  stack[0] = result(std::move(out));
}

void recurrent_(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tokens tokens(in);
  const Tensor state = in.tensor();
  const Text layout = in.text();
  const Gates gates(in);
  const Slots slots(in);
  const Text compute = in.text();
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place("gdn.recurrent");

  require_no_gradients("gdn.recurrent_",
                       {&tokens.q, &tokens.k, &tokens.v, &tokens.g, &tokens.beta, &state,
                        &gates.A_log, &gates.a, &gates.dt_bias, &gates.b});
  count_write({&state});
  RecurrentArgs args(layout_named("gdn.recurrent", layout.view()));
  tokens.put(&args);
  gates.put(&args);
  slots.put(state, &args);
  args.compute = compute_named("gdn.recurrent", compute.view());
  Tensor out = tokens.new_out(place);
  args.out = out.view();
  run(gdn::recurrent, args, place, kernel);
  stack[0] = result(std::move(out));
}

}  // namespace gdn::torch_binding
