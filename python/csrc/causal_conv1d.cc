#include "delta_rule.h"
#include "gradients.h"
#include "registration.h"

namespace gdn::torch_binding {
namespace {

// y: the shape and dtype of x.
Tensor new_y(const Tensor& x, Place place) {
  const int rank = x.view().rank <= TensorView::kMaxRank ? x.view().rank : 0;
  return new_tensor(x.view().shape, rank, x.torch_dtype(), place);
}

}  // namespace

void causal_conv1d(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tensor x = in.tensor();
  const Tensor weight = in.tensor();
  const Tensor bias = in.optional_tensor();
  const Tensor initial_state = in.optional_tensor();
  CausalConv1dArgs args;
  args.silu = in.boolean();
  const bool output_final_state = in.boolean();
  const Tensor cu_seqlens = in.optional_tensor();
  const InitialSlots slots(in);
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place("gdn.causal_conv1d");

  args.x = x.view();
  args.weight = weight.view();
  args.bias = bias.view();
  args.cu_seqlens = cu_seqlens.view();
  args.initial_state = initial_state.view();
  slots.put(&args);
  Tensor y = new_y(x, place);
  args.y = y.view();
  Tensor final_state;
  const int64_t sequences = sequence_count(x, cu_seqlens);
  if (output_final_state && sequences >= 0 && args.x.rank == 3 && args.weight.rank == 2 &&
      args.weight.shape[1] >= 1) {
    const int64_t shape[] = {sequences, args.x.shape[2], args.weight.shape[1] - 1};
    final_state = new_final_state(sequences, initial_state, shape, 3,
                                  slots.initial_state_indices.given(), place);
    args.final_state = final_state.view();
  }
  run(gdn::causal_conv1d, args, place, kernel);
  if (!final_state.given()) final_state = empty_tensor(aoti_torch_dtype_float32(), place);
  stack[0] = result(std::move(y));
  stack[1] = result(std::move(final_state));
}

void causal_conv1d_(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tensor x = in.tensor();
  const Tensor weight = in.tensor();
  const Tensor bias = in.optional_tensor();
  const Tensor state = in.tensor();
  CausalConv1dArgs args;
  args.silu = in.boolean();
  const Tensor cu_seqlens = in.optional_tensor();
  const Slots slots(in);
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place("gdn.causal_conv1d");

  require_no_gradients("gdn.causal_conv1d_", {&x, &weight, &bias, &state});
  count_write({&state});
  args.x = x.view();
  args.weight = weight.view();
  args.bias = bias.view();
  args.cu_seqlens = cu_seqlens.view();
  slots.put(state, &args);
  Tensor y = new_y(x, place);
  args.y = y.view();
  run(gdn::causal_conv1d, args, place, kernel);
  stack[0] = result(std::move(y));
}

}  // namespace gdn::torch_binding
