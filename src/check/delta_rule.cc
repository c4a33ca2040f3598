#include "check/delta_rule.h"

#include <cmath>
#include <string>

#include "check/sequences.h"
#include "check/slots.h"

namespace gdn {
namespace {

constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;

// Exactly one way to say the decay, at most one to say the write strength.
template <class Args>
void check_gates(Check& check, const Args& args, int64_t B, int64_t T, int64_t HV, DType dtype,
                 GateInputs* gates) {
  const Extents extents = {B, T, HV};
  const auto gate = [&](const char* name, const TensorView& view) {
    if (view.given()) {
      check.tensor(name, view, extents, DTypes::same_or_f32(dtype), Contiguous::kNone,
                   Access::kRead);
    }
  };
  if (args.g.given()) {
    check.not_given("A_log", args.A_log, "g or A_log and a, not both");
    check.not_given("a", args.a, "g or A_log and a, not both");
    check.not_given("dt_bias", args.dt_bias, "it only with a");
    check.tensor("g", args.g, extents, DTypes::f32(), Contiguous::kNone, Access::kRead);
  } else {
    if (!args.a.given() && !args.A_log.given()) {
      check.fail(kInvalid, "g", "is absent", "g, or A_log and a");
    }
    check.given_with("A_log", args.A_log, "a");
    check.given_with("a", args.a, "A_log");
    gate("a", args.a);
    check_decay_vectors(check, args.A_log, args.dt_bias, HV);
  }
  check_softplus(check, args.softplus_beta, args.softplus_threshold);
  if (args.beta.given()) check.not_given("b", args.b, "beta or b, not both");
  gate("beta", args.beta);
  gate("b", args.b);
  if (!check.ok()) return;
  *gates = {token_tensor(args.g),       token_tensor(args.a), float_vector(args.A_log),
            float_vector(args.dt_bias), args.softplus_beta,   args.softplus_threshold,
            token_tensor(args.beta),    token_tensor(args.b), args.allow_neg_eigval};
}

}  // namespace

void check_heads(Check& check, const char* h_argument, int64_t H, const char* hv_argument,
                 int64_t HV) {
  if (!check.ok()) return;
  if (H < 1) return check.fail(kInvalid, h_argument, "has H = " + std::to_string(H), "at least 1");
  if (HV < 1 || HV % H != 0) {
    check.fail(kInvalid, hv_argument, "has HV = " + std::to_string(HV),
               "a positive multiple of H = " + std::to_string(H));
  }
}

void check_layout(Check& check, StateLayout layout) {
  if (layout == StateLayout::kVK || layout == StateLayout::kKV) return;
  check.fail(kInvalid, "state_layout", "is " + std::to_string(static_cast<int>(layout)),
             "kVK or kKV");
}

void check_softplus(Check& check, float beta, float threshold) {
  check.positive("softplus_beta", static_cast<double>(beta));
  if (std::isnan(threshold)) check.fail(kInvalid, "softplus_threshold", "is nan", "a number");
}

void check_decay_vectors(Check& check, const TensorView& A_log, const TensorView& dt_bias,
                         int64_t HV) {
  check.tensor("A_log", A_log, {HV}, DTypes::floats(), Contiguous::kNone, Access::kRead);
  if (dt_bias.given()) {
    check.tensor("dt_bias", dt_bias, {HV}, DTypes::floats(), Contiguous::kNone, Access::kRead);
  }
}

void check_state(Check& check, const char* name, const TensorView& view, const Extent& slots,
                 const Shape& shape, Access access) {
  const bool vk = shape.layout == StateLayout::kVK;
  check.tensor(name, view,
               {slots, shape.value_heads, vk ? shape.V : shape.K, vk ? shape.K : shape.V},
               DTypes::floats(), Contiguous::kInsideSlots, access);
}

template <class Args, class Problem>
void check_tokens(Check& check, const Args& args, Problem* problem) {
  const auto token = [&](const char* name, const TensorView& view, const Extents& extents,
                         Access access) {
    const bool first = &view == &args.q;
    check.tensor(name, view, extents, first ? DTypes::floats() : DTypes::same_as(args.q.dtype, "q"),
                 Contiguous::kLastAxis, access);
  };
  token("q", args.q, {"B", "T", "H", "K"}, Access::kRead);
  if (!check.ok()) return;
  const int64_t B = args.q.shape[0], T = args.q.shape[1];
  token("k", args.k, Extents::of(args.q, 4), Access::kRead);
  token("v", args.v, {B, T, "HV", "V"}, Access::kRead);
  if (!check.ok()) return;
  token("out", args.out, Extents::of(args.v, 4), Access::kWrite);
  Shape& shape = problem->shape;
  shape.heads = args.q.shape[2];
  shape.K = args.q.shape[3];
  shape.value_heads = args.v.shape[2];
  shape.V = args.v.shape[3];
  check_heads(check, "q", shape.heads, "v", shape.value_heads);
  check.dim("q", "K", shape.K);
  check.dim("v", "V", shape.V);
  check_layout(check, args.state_layout);
  check_gates(check, args, B, T, shape.value_heads, args.q.dtype, &problem->gates);
  const double scale = args.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape.K)));
  check.finite("scale", scale);
  check.not_negative("l2norm_eps", args.l2norm_eps);
  if (!check.ok()) return;
  shape.dtype = args.q.dtype;
  shape.layout = args.state_layout;
  check_sequences(check, args.cu_seqlens, B, T, &problem->sequences, &shape);
  problem->q = token_tensor(args.q);
  problem->k = token_tensor(args.k);
  problem->v = token_tensor(args.v);
  problem->out = token_tensor(args.out);
  problem->scale = static_cast<float>(scale);
  problem->use_qk_l2norm = args.use_qk_l2norm;
  problem->l2norm_eps = static_cast<float>(args.l2norm_eps);
}

template void check_tokens(Check&, const DeltaRuleArgs&, DeltaRuleProblem*);
template void check_tokens(Check&, const ReplayVerifyArgs&, ReplayProblem*);

void check_delta_rule(Check& check, const DeltaRuleArgs& args, DeltaRuleProblem* problem) {
  check_tokens(check, args, problem);
  Shape& shape = problem->shape;
  check.compute(args.compute);
  shape.compute = args.compute;
  check_states(check, args, Accepted::kColumns, problem,
               [&](const char* name, const TensorView& view, const Extent& slots, Access access) {
                 check_state(check, name, view, slots, shape, access);
               });
  if (!check.ok()) return;
  problem->initial_state = slot_tensor(args.initial_state);
  if (StateArgs::of(args).stores()) problem->final_state = slot_tensor(args.final_state);
}

}  // namespace gdn
