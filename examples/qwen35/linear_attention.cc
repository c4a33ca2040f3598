// A Gated DeltaNet layer: all that is not a matrix product is a call of libgdn.
#include <gdn/ops.h>

#include <stdexcept>

#include "layers.h"

namespace qwen35 {
namespace {

void require(const gdn::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

}  // namespace

LinearAttentionPool::LinearAttentionPool(const Config& config, int64_t slot_count)
    : slots(slot_count) {
  const auto& [H, HV, K, V, conv_width] = config.linear;
  conv.resize(static_cast<size_t>(slots * (2 * H * K + HV * V) * (conv_width - 1)));
  delta.resize(static_cast<size_t>(slots * HV * V * K));
}

Values linear_attention(gdn::Context& context, const Config& config,
                        const LinearAttentionWeights& weights, const Step& step, const Values& x,
                        LinearAttentionPool* pool) {
  const auto& [H, HV, K, V, conv_width] = config.linear;
  const int64_t T = step.tokens, qkv_width = 2 * H * K + HV * V;
  const gdn::TensorView slot(&step.slot, {1});
  // A new sequence takes its slot as the last one left it: nothing is read from there.
  const bool has_state = step.position > 0;

  // One product gives the rows [q k v | z | b | a]; what follows reads slices of them in place.
  const Values projected = apply(context, weights.in, x);
  const int64_t row = weights.in.out;
  const float* z = projected.data() + qkv_width;
  const float* b = z + HV * V;
  const float* a = b + HV;

  Values qkv(static_cast<size_t>(T * qkv_width));
  gdn::CausalConv1dArgs conv;
  conv.x = gdn::TensorView(projected.data(), {1, T, qkv_width}).with_strides({T * row, row, 1});
  conv.weight = {weights.conv.data(), {qkv_width, conv_width}};
  conv.silu = true;
  conv.y = {qkv.data(), {1, T, qkv_width}};
  conv.initial_state =
      conv.final_state = {pool->conv.data(), {pool->slots, qkv_width, conv_width - 1}};
  conv.initial_state_indices = conv.final_state_indices = slot;
  conv.has_initial_state = {&has_state, {1}};
  require(gdn::causal_conv1d(context, conv));

  // A view of `heads` vectors a token, the tokens `stride` apart.
  const auto view = [T](const float* first, int64_t stride, int64_t heads, int64_t dim) {
    return gdn::TensorView(first, {1, T, heads, dim}).with_strides({T * stride, stride, dim, 1});
  };
  const auto gates = [T, row, heads = HV](const float* first) {
    return gdn::TensorView(first, {1, T, heads}).with_strides({T * row, row, 1});
  };
  Values read(static_cast<size_t>(T * HV * V));
  const auto describe = [&](gdn::DeltaRuleArgs& args) {
    args.q = view(&qkv[0], qkv_width, H, K);
    args.k = view(&qkv[H * K], qkv_width, H, K);
    args.v = view(&qkv[2 * H * K], qkv_width, HV, V);
    args.out = {read.data(), {1, T, HV, V}};
    args.a = gates(a);
    args.b = gates(b);
    args.A_log = {weights.A_log.data(), {HV}};
    args.dt_bias = {weights.dt_bias.data(), {HV}};
    args.initial_state = args.final_state = {pool->delta.data(), {pool->slots, HV, V, K}};
    args.initial_state_indices = args.final_state_indices = slot;
    args.has_initial_state = {&has_state, {1}};
    args.use_qk_l2norm = true;
  };
  if (T == 1) {  // decode
    gdn::RecurrentArgs args(gdn::StateLayout::kVK);
    describe(args);
    require(gdn::recurrent(context, args));
  } else {  // prefill
    gdn::ChunkArgs args(gdn::StateLayout::kVK);
    describe(args);
    require(gdn::chunk(context, args));
  }

  Values normed(read.size());
  gdn::RmsNormGatedArgs norm;
  norm.x = {read.data(), {1, T, HV, V}};
  norm.z = view(z, row, HV, V);
  norm.weight = {weights.norm.data(), {V}};
  norm.y = {normed.data(), {1, T, HV, V}};
  norm.eps = config.norm_eps;
  require(gdn::rms_norm_gated(context, norm));

  return apply(context, weights.out, normed);
}

}  // namespace qwen35
