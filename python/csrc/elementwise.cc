// gating, l2norm, rms_norm_gated, solve_tril: operators without states.
#include "call.h"
#include "registration.h"
#include "stack.h"

namespace gdn::torch_binding {
namespace {

// A new tensor of the shape of `like`, or of a scalar where it has too many axes and the check will
// say so; without its last `less` axes.
Tensor new_like(const Tensor& like, int32_t torch_dtype, Place place, int less = 0) {
  const TensorView& view = like.view();
  const bool fits = view.rank <= TensorView::kMaxRank && view.rank >= less;
  return new_tensor(view.shape, fits ? view.rank - less : 0, torch_dtype, place);
}

}  // namespace

void gating(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tensor a = in.tensor();
  const Tensor A_log = in.tensor();
  const Tensor dt_bias = in.optional_tensor();
  const Tensor b = in.optional_tensor();
  GatingArgs args;
  args.softplus_beta = static_cast<float>(in.number());
  args.softplus_threshold = static_cast<float>(in.number());
  args.allow_neg_eigval = in.boolean();
  const int32_t beta_dtype = in.optional_dtype().value_or(aoti_torch_dtype_float32());
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place("gdn.gating");

  args.a = a.view();
  args.A_log = A_log.view();
  args.dt_bias = dt_bias.view();
  args.b = b.view();
  Tensor g = new_like(a, aoti_torch_dtype_float32(), place);
  args.g = g.view();
  Tensor beta;
  if (b.given()) {
    beta = new_like(b, beta_dtype, place);
    args.beta = beta.view();
  }
  run(gdn::gating, args, place, kernel);
  if (!beta.given()) beta = empty_tensor(beta_dtype, place);
  stack[0] = result(std::move(g));
  stack[1] = result(std::move(beta));
}

void l2norm(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tensor x = in.tensor();
  L2normArgs args;
  args.eps = in.number();
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place("gdn.l2norm");

  args.x = x.view();
  Tensor y = new_like(x, x.torch_dtype(), place);
  args.y = y.view();
  run(gdn::l2norm, args, place, kernel);
  stack[0] = result(std::move(y));
}

void rms_norm_gated(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tensor x = in.tensor();
  const Tensor z = in.tensor();
  const Tensor weight = in.tensor();
  RmsNormGatedArgs args;
  args.eps = in.number();
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place("gdn.rms_norm_gated");

  args.x = x.view();
  args.z = z.view();
  args.weight = weight.view();
  Tensor y = new_like(x, x.torch_dtype(), place);
  args.y = y.view();
  run(gdn::rms_norm_gated, args, place, kernel);
  stack[0] = result(std::move(y));
}

void solve_tril(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tensor lower = in.tensor();
  const Text method = in.text();
  SolveTrilArgs args;
  args.iterations = in.integer();
  const bool output_residual = in.boolean();
  const Text compute = in.text();
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place("gdn.solve_tril");

  args.method = method_named("gdn.solve_tril", method.view());
  args.compute = compute_named("gdn.solve_tril", compute.view());
  args.lower = lower.view();
  Tensor inverse = new_like(lower, lower.torch_dtype(), place);
  args.inverse = inverse.view();
  Tensor residual;
  if (output_residual) {
    residual = new_like(lower, aoti_torch_dtype_float32(), place, 2);
    args.residual = residual.view();
  }
  run(gdn::solve_tril, args, place, kernel);
  if (!residual.given()) residual = empty_tensor(aoti_torch_dtype_float32(), place);
  stack[0] = result(std::move(inverse));
  stack[1] = result(std::move(residual));
}

}  // namespace gdn::torch_binding
