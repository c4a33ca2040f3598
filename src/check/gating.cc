#include "check/check.h"
#include "check/delta_rule.h"

namespace gdn {

Status check(const GatingArgs& args, GatingProblem* problem) {
  Check check(Op::kGating);
  const auto tensor = [&](const char* name, const TensorView& view, const Extents& extents,
                          DTypes dtypes, Access access) {
    check.tensor(name, view, extents, dtypes, Contiguous::kNone, access);
  };
  tensor("a", args.a, {"B", "T", "HV"}, DTypes::floats(), Access::kRead);
  if (!check.ok()) return check.take();
  const Extents extents = Extents::of(args.a, 3);
  const int64_t HV = args.a.shape[2];
  check_decay_vectors(check, args.A_log, args.dt_bias, HV);
  tensor("g", args.g, extents, DTypes::f32(), Access::kWrite);
  if (args.b.given()) {
    tensor("b", args.b, extents, DTypes::floats(), Access::kRead);
    check.given_with("beta", args.beta, "b");
    tensor("beta", args.beta, extents, DTypes::floats(), Access::kWrite);
  } else {
    check.not_given("beta", args.beta, "it only with b");
  }
  check_softplus(check, args.softplus_beta, args.softplus_threshold);
  check.overlaps();
  if (!check.ok()) return check.take();

  Shape& shape = problem->shape;
  shape.op = Op::kGating;
  shape.device = check.device();
  shape.sequences = args.a.shape[0];
  shape.max_length = args.a.shape[1];
  shape.tokens = shape.sequences * shape.max_length;
  shape.heads = shape.value_heads = HV;
  shape.dtype = args.a.dtype;
  GateInputs& gates = problem->gates;
  gates.a = token_tensor(args.a);
  gates.A_log = float_vector(args.A_log);
  gates.dt_bias = float_vector(args.dt_bias);
  gates.softplus_beta = args.softplus_beta;
  gates.softplus_threshold = args.softplus_threshold;
  gates.b = token_tensor(args.b);
  gates.allow_neg_eigval = args.allow_neg_eigval;
  problem->g = token_tensor(args.g);
  problem->beta = token_tensor(args.beta);
  return {};
}

}  // namespace gdn
