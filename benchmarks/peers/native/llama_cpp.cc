// ggml's operator GATED_DELTA_NET for Python: a graph of one node over the caller's memory.
#include <ggml-cpu.h>
#include <ggml.h>

#include <vector>

namespace {

struct Peer {
  ggml_context* context = nullptr;
  ggml_tensor *q, *k, *v, *g, *beta, *state, *result;
  ggml_cgraph* graph = nullptr;
  ggml_cplan plan;
  std::vector<uint8_t> work;
};

}  // namespace

extern "C" {

// q, k [N,T,H,D], v [N,T,HV,D], g, beta [N,T,HV], state [N,HV,D,D] and result, out [N,T,HV,D]
// followed by the new state: all contiguous float32.
void* llama_cpp_create(int64_t N, int64_t T, int64_t H, int64_t HV, int64_t D, int threads) {
  ggml_cpu_init();
  auto* peer = new Peer;
  peer->context = ggml_init({1 << 20, nullptr, /*no_alloc=*/true});
  const auto tensor = [&](int64_t a, int64_t b, int64_t c, int64_t d) {
    return ggml_new_tensor_4d(peer->context, GGML_TYPE_F32, a, b, c, d);
  };
  peer->q = tensor(D, H, T, N);
  peer->k = tensor(D, H, T, N);
  peer->v = tensor(D, HV, T, N);
  peer->g = tensor(1, HV, T, N);
  peer->beta = tensor(1, HV, T, N);
  peer->state = tensor(D, D, HV, N);
  peer->result = ggml_gated_delta_net(peer->context, peer->q, peer->k, peer->v, peer->g, peer->beta,
                                      peer->state,
                                      /*K=*/1);
  peer->graph = ggml_new_graph(peer->context);
  ggml_build_forward_expand(peer->graph, peer->result);
  peer->plan = ggml_graph_plan(peer->graph, threads, nullptr);
  peer->work.resize(peer->plan.work_size);
  peer->plan.work_data = peer->work.data();
  return peer;
}

int llama_cpp_run(void* handle, void* q, void* k, void* v, void* g, void* beta, void* state,
                  void* result) {
  auto* peer = static_cast<Peer*>(handle);
  peer->q->data = q;
  peer->k->data = k;
  peer->v->data = v;
  peer->g->data = g;
  peer->beta->data = beta;
  peer->state->data = state;
  peer->result->data = result;
  return ggml_graph_compute(peer->graph, &peer->plan);
}

void llama_cpp_destroy(void* handle) {
  auto* peer = static_cast<Peer*>(handle);
  ggml_free(peer->context);
  delete peer;
}
}
