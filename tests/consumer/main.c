/* Normalises a vector through the C API. */
#include <gdn.h>
#include <stdio.h>
#include <string.h>

static int near(float got, float want) { return got - want < 1e-6f && want - got < 1e-6f; }

int main(void) {
  float x[2] = {3, 4}, y[2] = {0, 0};
  char message[256];
  gdn_context context = {.size = sizeof context};
  gdn_l2norm_args args = {.size = sizeof args};
  gdn_status status = gdn_executor_create(2, &context.executor, message, sizeof message);
  args.x = (gdn_tensor){.data = x, .rank = 2, .shape = {1, 2}};
  args.y = (gdn_tensor){.data = y, .rank = 2, .shape = {1, 2}};
  if (status == GDN_OK) status = gdn_l2norm(&context, &args, message, sizeof message);
  gdn_executor_destroy(context.executor);
  printf("%s%g %g\n", message, y[0], y[1]);
  if (strcmp(gdn_version(), GDN_VERSION) != 0) return 2;
  return status == GDN_OK && near(y[0], 0.6f) && near(y[1], 0.8f) ? 0 : 1;
}
