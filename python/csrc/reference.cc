// The reference as operators, for tests: what it computes in double, not rounded to anything.
#include "reference/chunked.h"

#include <cstring>
#include <vector>

#include "check/check.h"
#include "delta_rule.h"
#include "guarded.h"
#include "reference/recurrent.h"
#include "registration.h"

namespace gdn::torch_binding {
namespace {

constexpr const char* kOp = "gdn.chunk";  // whose checks they are

Tensor doubles(const std::vector<double>& values, std::initializer_list<int64_t> shape) {
  Tensor tensor = new_tensor(shape, aoti_torch_dtype_float64(), Place());
  if (!values.empty())
    std::memcpy(tensor.view().data, values.data(), values.size() * sizeof(double));
  return tensor;
}

ChunkArgs chunk_args(const Tokens& tokens, const Gates& gates, const Tensor& initial_state,
                     const Text& layout, const Tensor& out) {
  ChunkArgs args(layout_named(kOp, layout.view()));
  tokens.put(&args);
  gates.put(&args);
  args.initial_state = initial_state.view();
  args.out = out.view();
  return args;
}

StableIValue result_list(std::vector<Tensor> tensors) {
  StableListHandle list = nullptr;
  require_ok(torch_new_list_reserve_size(tensors.size(), &list), "a list");
  for (Tensor& tensor : tensors) {
    require_ok(torch_list_push_back(list, result(std::move(tensor))), "a list");
  }
  return encode(list);
}

}  // namespace

void reference_recurrent(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tokens tokens(in);
  const Tensor initial_state = in.optional_tensor();
  const Text layout = in.text();
  const Gates gates(in);

  const Tensor out = tokens.new_out(Place());
  const ChunkArgs args = chunk_args(tokens, gates, initial_state, layout, out);
  Tensor outs, states;
  require(guarded(kOp, [&]() -> Status {
    DeltaRuleProblem problem;
    if (Status status = check(args, &problem); !status.ok()) return status;
    TorchExecutor executor;
    reference::Request request;
    request.executor = &executor;
    const reference::DeltaRuleResult found = reference::recurrent(problem, request);
    const Shape& s = problem.shape;
    outs = doubles(found.out, {args.q.shape[0], args.q.shape[1], s.value_heads, s.V});
    states = doubles(found.final_states, {problem.sequences.count, s.value_heads, s.V, s.K});
    return {};
  }));
  stack[0] = result(std::move(outs));
  stack[1] = result(std::move(states));
}

void reference_chunk_stages(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tokens tokens(in);
  const Tensor initial_state = in.optional_tensor();
  const Text layout = in.text();
  const int64_t sequence = in.integer();
  const int64_t head = in.integer();
  const int64_t chunk_size = in.integer();
  const Text method = in.text();
  const int64_t iterations = in.integer();
  const Gates gates(in);

  const SolveMethod solve = method_named(kOp, method.view());
  const Tensor out = tokens.new_out(Place());
  ChunkArgs args = chunk_args(tokens, gates, initial_state, layout, out);
  args.chunk_size = chunk_size;
  std::vector<Tensor> stages;
  require(guarded(kOp, [&]() -> Status {
    DeltaRuleProblem problem;
    if (Status status = check(args, &problem); !status.ok()) return status;
    const auto in_range = [](const char* name, int64_t i, int64_t count) -> Status {
      if (i >= 0 && i < count) return {};
      return {StatusCode::kOutOfRange, std::string(kOp) + ": " + name + " is " + std::to_string(i) +
                                           ", expected 0 to " + std::to_string(count - 1)};
    };
    if (Status s = in_range("sequence", sequence, problem.sequences.count); !s.ok()) return s;
    if (Status s = in_range("head", head, problem.shape.value_heads); !s.ok()) return s;
    if (iterations < 1) {
      return {StatusCode::kInvalidArgument, std::string(kOp) + ": iterations is " +
                                                std::to_string(iterations) +
                                                ", expected at least 1"};
    }
    const reference::Preprocessed x = reference::preprocess(problem, sequence, head, chunk_size);
    const reference::PhaseA a = reference::phase_a(x, solve, iterations);
    const reference::PhaseB legacy = reference::phase_b_legacy(x, a);
    const reference::PhaseBOptimized optimized = reference::phase_b_optimized(x, a);
    const int64_t n = x.chunks, C = x.C, K = x.K, V = x.V;
    stages.reserve(22);
    const auto add = [&](const std::vector<double>& values, std::initializer_list<int64_t> shape) {
      stages.push_back(doubles(values, shape));
    };
    add(x.q, {n, C, K});
    add(x.k, {n, C, K});
    add(x.v, {n, C, V});
    add(x.beta, {n, C});
    add(x.g, {n, C});
    add(x.G, {n, C});
    add(x.state, {V, K});
    add(a.A, {n, C, C});
    add(a.L, {n, C, C});
    add(a.T, {n, C, C});
    add(a.u, {n, C, V});
    add(a.w, {n, C, K});
    add(legacy.v_new, {n, C, V});
    add(legacy.states, {n + 1, V, K});
    add(legacy.out, {n, C, V});
    add(optimized.attention, {n, C, C});
    add(optimized.core, {n, C, V});
    add(optimized.carry, {n, C, K});
    add(optimized.M, {n, K, K});
    add(optimized.N, {n, K, V});
    add(optimized.states, {n + 1, V, K});
    add(optimized.out, {n, C, V});
    return {};
  }));
  stack[0] = result_list(std::move(stages));
}

}  // namespace gdn::torch_binding
