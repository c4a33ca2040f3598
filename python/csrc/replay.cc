#include "delta_rule.h"
#include "gradients.h"
#include "registration.h"

namespace gdn::torch_binding {

void replay_verify_(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tokens tokens(in);
  const Tensor state = in.tensor();
  const Tensor num_accepted = in.tensor();
  const Tensor record_k = in.tensor();
  const Tensor record_v = in.tensor();
  const Tensor record_g = in.tensor();
  const Text layout = in.text();
  const Gates gates(in);
  const Tensor state_indices = in.optional_tensor();
  const std::optional<int64_t> null_slot = in.optional_integer();
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place("gdn.replay_verify");

  require_no_gradients("gdn.replay_verify_",
                       {&tokens.q, &tokens.k, &tokens.v, &tokens.g, &tokens.beta, &state, &record_k,
                        &record_v, &record_g, &gates.A_log, &gates.a, &gates.dt_bias, &gates.b});
  count_write({&state, &record_k, &record_v, &record_g});
  ReplayVerifyArgs args(layout_named("gdn.replay_verify", layout.view()));
  tokens.put(&args);
  gates.put(&args);
  args.state = state.view();
  args.state_indices = state_indices.view();
  args.num_accepted = num_accepted.view();
  args.record_k = record_k.view();
  args.record_v = record_v.view();
  args.record_g = record_g.view();
  args.null_slot = null_slot;
  Tensor out = tokens.new_out(place);
  args.out = out.view();
  run(gdn::replay_verify, args, place, kernel);
  stack[0] = result(std::move(out));
}

void replay_commit_(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack);
  const Tensor state = in.tensor();
  const Tensor num_accepted = in.tensor();
  const Tensor record_k = in.tensor();
  const Tensor record_v = in.tensor();
  const Tensor record_g = in.tensor();
  const Text layout = in.text();
  const Tensor state_indices = in.optional_tensor();
  const std::optional<int64_t> null_slot = in.optional_integer();
  const std::optional<Text> kernel = in.optional_text();
  const Place place = in.place("gdn.replay_commit");

  require_no_gradients("gdn.replay_commit_", {&state, &record_k, &record_v, &record_g});
  count_write({&state});
  ReplayCommitArgs args(layout_named("gdn.replay_commit", layout.view()));
  args.state = state.view();
  args.state_indices = state_indices.view();
  args.num_accepted = num_accepted.view();
  args.record_k = record_k.view();
  args.record_v = record_v.view();
  args.record_g = record_g.view();
  args.null_slot = null_slot;
  run(gdn::replay_commit, args, place, kernel);
}

}  // namespace gdn::torch_binding
