// The tensors of a causal_conv1d() call.
#include <algorithm>
#include <cmath>
#include <utility>

#include "verify/case_tensors.h"
#include "verify/inputs.h"
#include "verify/states.h"

namespace gdn::verify {
namespace {

// [B,T,D]; fused: channels in the middle of wider rows.
Tensor channel_tensor(const Case& c, DType dtype, bool fused) {
  const Layout layout(c);
  std::vector<int64_t> shape = {layout.batch, layout.rows, c.D};
  Placement placement{{}, c.shift};
  if (c.strides == Strides::kPadded) placement.strides = padded_strides(shape, true);
  if (fused) {
    constexpr int64_t kBefore = 16, kAfter = 48;
    const int64_t width = kBefore + c.D + kAfter;
    placement = {{layout.rows * width, width, 1}, c.shift + kBefore};
  }
  return Tensor(dtype, std::move(shape), std::move(placement));
}

}  // namespace

CausalConv1dData make_causal_conv1d(const Case& c) {
  CausalConv1dData data;
  data.about = c;
  data.x = channel_tensor(c, c.dtype, c.strides == Strides::kFused);
  data.y = channel_tensor(c, c.dtype, false);
  data.weight = small_tensor(c, c.weight, {c.D, c.W});
  Random weights = stream(c, kWeight, -c.first);
  for (int64_t i = 0; i < data.weight.size(); ++i) {
    data.weight.set(i, weights.normal() / std::sqrt(static_cast<double>(c.W)));
  }
  if (c.bias) {
    data.bias = small_tensor(c, c.weight, {c.D});
    Random biases = stream(c, kBias, -c.first);
    for (int64_t i = 0; i < c.D; ++i) data.bias.set(i, .5 * biases.normal());
  }
  for (int64_t n = 0; n < c.sequences(); ++n) {
    Random random = stream(c, kValues, n);
    for_each_token(c, n, [&](int64_t, int64_t row) {
      for (int64_t i = 0; i < c.D; ++i) data.x.set(row * c.D + i, random.normal());
    });
  }
  data.cu_seqlens = cu_seqlens_tensor(c);
  make_states(c, &data);
  return data;
}

CausalConv1dArgs CausalConv1dData::args() const {
  CausalConv1dArgs args;
  args.x = x.view();
  args.weight = weight.view();
  args.bias = bias.view();
  args.y = y.view();
  args.silu = about.silu;
  args.cu_seqlens = cu_seqlens.view();
  args.initial_state = initial_state.view();
  args.final_state = final_state.view();
  args.initial_state_indices = initial_state_indices.view();
  args.final_state_indices = final_state_indices.view();
  args.has_initial_state = has_initial_state.view();
  args.num_accepted = num_accepted.view();
  args.null_slot = null_slot;
  return args;
}

}  // namespace gdn::verify
