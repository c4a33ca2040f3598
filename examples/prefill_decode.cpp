// Prefills a prompt, then decodes one token, on a pool of states: the two calls of a serving loop.
#include <gdn/gdn.h>

#include <cstdio>
#include <vector>

int main() {
  const int64_t prompt = 100, T = prompt + 1, H = 2, HV = 4, K = 128, V = 128, slots = 8;
  std::vector<float> q(T * H * K, 0.1f), k(T * H * K, 0.1f), v(T * HV * V, 1.0f), out(T * HV * V);
  std::vector<float> g(T * HV, -0.05f), beta(T * HV, 0.5f), pool(slots * HV * V * K);
  const int32_t slot = 3;  // where this sequence keeps its state

  const auto executor = gdn::make_thread_executor();
  gdn::Context context{.executor = executor.get()};
  const auto describe = [&](gdn::DeltaRuleArgs& args, int64_t first, int64_t tokens) {
    args.q = {&q[first * H * K], {1, tokens, H, K}};
    args.k = {&k[first * H * K], {1, tokens, H, K}};
    args.v = {&v[first * HV * V], {1, tokens, HV, V}};
    args.out = {&out[first * HV * V], {1, tokens, HV, V}};
    args.g = {&g[first * HV], {1, tokens, HV}};
    args.beta = {&beta[first * HV], {1, tokens, HV}};
    args.initial_state = args.final_state = {pool.data(), {slots, HV, V, K}};
    args.initial_state_indices = args.final_state_indices = {&slot, {1}};
    args.use_qk_l2norm = true;
  };

  gdn::ChunkArgs prefill(gdn::StateLayout::kVK);
  describe(prefill, 0, prompt);
  gdn::Status status = gdn::chunk(context, prefill);

  gdn::RecurrentArgs decode(gdn::StateLayout::kVK);
  describe(decode, prompt, 1);
  if (status.ok()) status = gdn::recurrent(context, decode);

  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  std::printf("out of the last token: %g\n", out[prompt * HV * V]);
  return status.ok() ? 0 : 1;
}
