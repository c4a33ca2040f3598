/* prefill_decode.cpp in C: prefills a prompt, then decodes one token, on a pool of states. */
#include <gdn.h>
#include <stdio.h>
#include <stdlib.h>

enum { prompt = 100, T = prompt + 1, H = 2, HV = 4, K = 128, V = 128, slots = 8 };

static float* numbers(size_t count, float value) {
  float* data = malloc(count * sizeof *data);
  if (data == NULL) exit(1);
  for (size_t i = 0; i < count; ++i) data[i] = value;
  return data;
}

int main(void) {
  float* q = numbers(T * H * K, 0.1f);
  float* k = numbers(T * H * K, 0.1f);
  float* v = numbers(T * HV * V, 1.0f);
  float* out = numbers(T * HV * V, 0.0f);
  float* g = numbers(T * HV, -0.05f);
  float* beta = numbers(T * HV, 0.5f);
  float* pool = numbers(slots * HV * V * K, 0.0f);
  int32_t slot = 3; /* where this sequence keeps its state */
  const gdn_tensor states = {.data = pool, .rank = 4, .shape = {slots, HV, V, K}};
  const gdn_tensor indices = {.data = &slot, .dtype = GDN_INT32, .rank = 1, .shape = {1}};

  char message[256] = "";
  gdn_context context = {.size = sizeof context};
  gdn_status status = gdn_executor_create(0, &context.executor, message, sizeof message);

  const gdn_chunk_args prefill = {
      .size = sizeof prefill,
      .state_layout = GDN_STATE_VK,
      .q = {.data = q, .rank = 4, .shape = {1, prompt, H, K}},
      .k = {.data = k, .rank = 4, .shape = {1, prompt, H, K}},
      .v = {.data = v, .rank = 4, .shape = {1, prompt, HV, V}},
      .out = {.data = out, .rank = 4, .shape = {1, prompt, HV, V}},
      .g = {.data = g, .rank = 3, .shape = {1, prompt, HV}},
      .beta = {.data = beta, .rank = 3, .shape = {1, prompt, HV}},
      .initial_state = states,
      .final_state = states,
      .initial_state_indices = indices,
      .final_state_indices = indices,
      .use_qk_l2norm = 1,
  };
  if (status == GDN_OK) status = gdn_chunk(&context, &prefill, message, sizeof message);

  const gdn_recurrent_args decode = {
      .size = sizeof decode,
      .state_layout = GDN_STATE_VK,
      .q = {.data = q + prompt * H * K, .rank = 4, .shape = {1, 1, H, K}},
      .k = {.data = k + prompt * H * K, .rank = 4, .shape = {1, 1, H, K}},
      .v = {.data = v + prompt * HV * V, .rank = 4, .shape = {1, 1, HV, V}},
      .out = {.data = out + prompt * HV * V, .rank = 4, .shape = {1, 1, HV, V}},
      .g = {.data = g + prompt * HV, .rank = 3, .shape = {1, 1, HV}},
      .beta = {.data = beta + prompt * HV, .rank = 3, .shape = {1, 1, HV}},
      .initial_state = states,
      .final_state = states,
      .initial_state_indices = indices,
      .final_state_indices = indices,
      .use_qk_l2norm = 1,
  };
  if (status == GDN_OK) status = gdn_recurrent(&context, &decode, message, sizeof message);

  if (status != GDN_OK) fprintf(stderr, "%s\n", message);
  printf("out of the last token: %g\n", out[prompt * HV * V]);

  gdn_executor_destroy(context.executor);
  free(q);
  free(k);
  free(v);
  free(out);
  free(g);
  free(beta);
  free(pool);
  return status == GDN_OK ? 0 : 1;
}
