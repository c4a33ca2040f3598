#include "check/delta_rule.h"

#include <algorithm>
#include <cmath>
#include <string>

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

// Fills the table and the parts of the shape that come from it.
void check_sequences(Check& check, const TensorView& cu_seqlens, int64_t B, int64_t T,
                     SequenceTable* sequences, Shape* shape) {
  shape->sequences = B;
  shape->max_length = T;
  shape->tokens = B * T;
  sequences->count = B;
  sequences->row_length = T;
  if (!cu_seqlens.given()) return;
  check.index_tensor("cu_seqlens", cu_seqlens, {"N+1"});
  if (!check.ok()) return;
  const int64_t N = cu_seqlens.shape[0] - 1;
  if (N < 0) return check.fail(kInvalid, "cu_seqlens", "has shape [0]", "at least one element");
  if (B != 1) {
    return check.fail(kInvalid, "cu_seqlens", "is given with B = " + std::to_string(B), "B = 1");
  }
  sequences->cu_seqlens = index_tensor(cu_seqlens);
  sequences->count = N;
  shape->sequences = N;
  if (!check.can_read_values()) return;  // T bounds what the device will find
  const auto at = [&](int64_t n) { return sequences->cu_seqlens.at(n); };
  const auto fail = [&](int64_t n, const std::string& expected) {
    check.fail(StatusCode::kOutOfRange, element_text("cu_seqlens", n),
               "is " + std::to_string(at(n)), expected);
  };
  if (at(0) != 0) return fail(0, "0");
  shape->max_length = 0;
  for (int64_t n = 0; n < N; ++n) {
    if (at(n + 1) < at(n)) {
      return fail(n + 1, "at least " + std::to_string(at(n)) + ", the element before it");
    }
    if (at(n + 1) > T) return fail(n + 1, "at most T = " + std::to_string(T));
    shape->max_length = std::max(shape->max_length, at(n + 1) - at(n));
  }
  shape->tokens = at(N);
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
  shape.device = check.device();
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
  const int64_t N = shape.sequences;

  const bool reads = args.initial_state.given(), writes = args.final_state.given();
  const bool in_place = reads && writes && same_tensor(args.initial_state, args.final_state);
  const auto slots = [&](const TensorView& indices) {
    return indices.given() ? Extent("slots") : Extent(N);
  };
  if (reads) {
    check_state(check, "initial_state", args.initial_state, slots(args.initial_state_indices),
                shape, in_place ? Access::kShared : Access::kRead);
  } else {
    check.not_given("initial_state_indices", args.initial_state_indices,
                    "it only with initial_state");
    check.not_given("has_initial_state", args.has_initial_state, "it only with initial_state");
  }
  if (writes) {
    check_state(check, "final_state", args.final_state, slots(args.final_state_indices), shape,
                Access::kWrite);
  } else {
    check.not_given("final_state_indices", args.final_state_indices, "it only with final_state");
  }
  if (check.ok() && reads && writes && !in_place && overlap(args.initial_state, args.final_state)) {
    check.fail(kInvalid, "final_state", "overlaps initial_state",
               "the same tensor or memory of its own");
  }
  if (args.num_accepted.given()) {
    check.index_tensor("num_accepted", args.num_accepted, {N});
    check.given_with("initial_state_indices", args.initial_state_indices, "num_accepted");
    check.index_tensor("initial_state_indices", args.initial_state_indices, {N, "M"});
  } else if (args.initial_state_indices.given()) {
    if (args.initial_state_indices.rank == 2) {
      check.given_with("num_accepted", args.num_accepted, "initial_state_indices of two axes");
    }
    check.index_tensor("initial_state_indices", args.initial_state_indices, {N});
  }
  if (args.has_initial_state.given()) {
    check.tensor("has_initial_state", args.has_initial_state, {N}, DTypes::boolean(),
                 Contiguous::kNone, Access::kRead);
  }
  const TensorView& final_indices = args.final_state_indices;
  if (final_indices.given()) {
    check.index_tensor("final_state_indices", final_indices, Extents{N, "M"}.last_optional());
    // On a device lengths are not known here.
    const bool lengths_known = check.can_read_values() || !args.cu_seqlens.given();
    if (check.ok() && final_indices.rank == 2 && lengths_known &&
        final_indices.shape[1] < shape.max_length) {
      check.fail(kInvalid, "final_state_indices", "has shape " + shape_text(final_indices),
                 "at least " + std::to_string(shape.max_length) +
                     " columns, one a token of the longest sequence");
    }
  }
  if (!check.ok()) return;

  shape.state_dtype = writes  ? args.final_state.dtype
                      : reads ? args.initial_state.dtype
                              : DType::kF32;
  problem->initial_state = slot_tensor(args.initial_state);
  problem->initial_state_indices = index_tensor(args.initial_state_indices);
  problem->num_accepted = index_tensor(args.num_accepted);
  // Without columns no state is stored; a problem's index tensor of no columns has one axis.
  if (!(final_indices.rank == 2 && final_indices.shape[1] == 0)) {
    problem->final_state = slot_tensor(args.final_state);
    problem->final_state_indices = index_tensor(final_indices);
  }
  problem->null_slot = args.null_slot;
  if (args.has_initial_state.given()) {
    problem->has_initial_state = reinterpret_cast<const bool*>(data_of(args.has_initial_state));
    problem->has_initial_state_stride = args.has_initial_state.strides[0];
  }
}

void check_slots(Check& check, const DeltaRuleArgs& args, const DeltaRuleProblem& problem) {
  const IndexTensor& initial_indices = problem.initial_state_indices;
  const IndexTensor& final_indices = problem.final_state_indices;
  const IndexTensor& accepted = problem.num_accepted;
  if (!check.can_read_values()) return;
  const int64_t N = problem.sequences.count;
  const bool every = problem.stores_every_state();
  const auto column_of = [&](int64_t n) { return accepted.given() ? accepted.at(n) - 1 : 0; };
  const auto initial_name = [&](int64_t n) {
    return accepted.given() ? element_text("initial_state_indices", n, column_of(n))
                            : element_text("initial_state_indices", n);
  };

  // Values that are read before a slot is known.
  for (int64_t n = 0; args.has_initial_state.given() && n < N; ++n) {
    // As a byte: a bool of another value is undefined.
    const auto* bytes = reinterpret_cast<const uint8_t*>(problem.has_initial_state);
    const int value = bytes[n * problem.has_initial_state_stride];
    if (value > 1) {
      return check.fail(StatusCode::kOutOfRange, element_text("has_initial_state", n),
                        "is " + std::to_string(value), "0 or 1");
    }
  }
  for (int64_t n = 0; accepted.given() && n < N; ++n) {
    if (accepted.at(n) < 1 || accepted.at(n) > initial_indices.columns) {
      return check.fail(StatusCode::kOutOfRange, element_text("num_accepted", n),
                        "is " + std::to_string(accepted.at(n)),
                        "1 to " + std::to_string(initial_indices.columns));
    }
  }

  if (!initial_indices.given() && !final_indices.given()) return;  // slot n is sequence n's alone

  // Only indices that the call looks at count: not those of a skipped sequence's final state, and
  // no column past a sequence's length.
  SlotWrites writes(problem.final_state.given() ? (every ? problem.shape.tokens : N) : 0);
  for (int64_t n = 0; n < N; ++n) {
    if (initial_indices.given()) {
      const int64_t slot = initial_indices.at(n, column_of(n));
      if (problem.is_padding(slot)) continue;
      check_slot(check, slot, problem.initial_state.slots, "initial_state",
                 [&] { return initial_name(n); });
    }
    if (!problem.final_state.given()) continue;
    if (!final_indices.given()) {
      writes.add({n, n, 0});
      continue;
    }
    const int64_t columns = every ? problem.sequences.at(n).length : 1;
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t slot = final_indices.at(n, column);
      if (problem.is_padding(slot)) continue;
      check_slot(check, slot, problem.final_state.slots, "final_state", [&] {
        return every ? element_text("final_state_indices", n, column)
                     : element_text("final_state_indices", n);
      });
      writes.add({slot, n, column});
    }
  }
  if (!check.ok() || !problem.final_state.given()) return;
  writes.check_distinct(check, "final_state_indices", every);

  // States updated in place: who reads what another sequence writes?
  if (!check.ok() || problem.initial_state.data != problem.final_state.data) return;
  for (int64_t n = 0; n < N; ++n) {
    const InitialState initial = problem.initial(n);
    if (initial.data == nullptr) continue;  // skipped, or from zero
    const int64_t slot = initial_indices.given() ? initial_indices.at(n, column_of(n)) : n;
    const SlotWrite* write = writes.find(slot);
    if (write == nullptr || write->row == n) continue;
    const std::string is_slot = "is " + std::to_string(slot);
    if (final_indices.given()) {
      return check.fail(StatusCode::kOutOfRange,
                        every ? element_text("final_state_indices", write->row, write->column)
                              : element_text("final_state_indices", write->row),
                        is_slot, "a slot that sequence " + std::to_string(n) + " does not read");
    }
    return check.fail(StatusCode::kOutOfRange, initial_name(n), is_slot,
                      "a slot that sequence " + std::to_string(write->row) + " does not write");
  }
}

}  // namespace gdn
