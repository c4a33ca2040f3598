// Prefills a prompt, then decodes one token, on a pool of states: the two calls of a serving loop.
#include <gdn/gdn.h>

#include <cstdio>
#include <vector>

int main() {
  const int64_t T = 100, H = 2, HV = 4, K = 128, V = 128, slots = 8;
  std::vector<float> q(T * H * K, 0.1f), k(T * H * K, 0.1f), v(T * HV * V, 1.0f), out(T * HV * V);
  std::vector<float> g(T * HV, -0.05f), beta(T * HV, 0.5f), pool(slots * HV * V * K);
  const int32_t slot = 3;  // where this sequence keeps its state

  const auto executor = gdn::make_thread_executor();
  gdn::Context context{.executor = executor.get()};
  gdn::ChunkArgs prefill(gdn::StateLayout::kVK);
  prefill.q = {q.data(), {1, T, H, K}};
  prefill.k = {k.data(), {1, T, H, K}};
  prefill.v = {v.data(), {1, T, HV, V}};
  prefill.out = {out.data(), {1, T, HV, V}};
  prefill.g = {g.data(), {1, T, HV}};
  prefill.beta = {beta.data(), {1, T, HV}};
  prefill.initial_state = prefill.final_state = {pool.data(), {slots, HV, V, K}};
  prefill.initial_state_indices = prefill.final_state_indices = {&slot, {1}};
  prefill.use_qk_l2norm = true;
  gdn::Status status = gdn::chunk(context, prefill);

  gdn::RecurrentArgs decode(prefill);  // the same buffers, pool and options: of one token now
  for (auto* view : {&decode.q, &decode.k, &decode.v, &decode.out, &decode.g, &decode.beta})
    view->shape[1] = 1;
  if (status.ok()) status = gdn::recurrent(context, decode);

  if (!status.ok()) std::puts(status.message().c_str());
  std::printf("out of the last token: %g\n", out[0]);
  return status.ok() ? 0 : 1;
}
