#include "registration.h"

namespace gdn::torch_binding {

void implement_for_device(StableLibrary& library) {
  library.impl("chunk", chunk);
  library.impl("chunk_", chunk_);
  library.impl("recurrent", recurrent);
  library.impl("recurrent_", recurrent_);
  library.impl("replay_verify_", replay_verify_);
  library.impl("replay_commit_", replay_commit_);
  library.impl("gating", gating);
  library.impl("l2norm", l2norm);
  library.impl("rms_norm_gated", rms_norm_gated);
  library.impl("causal_conv1d", causal_conv1d);
  library.impl("causal_conv1d_", causal_conv1d_);
  library.impl("solve_tril", solve_tril);
}

}  // namespace gdn::torch_binding

using namespace gdn::torch_binding;

STABLE_TORCH_LIBRARY(gdn, library) { define_schemas(library); }

STABLE_TORCH_LIBRARY_IMPL(gdn, CPU, library) {
  implement_for_device(library);
  library.impl("reference_recurrent", reference_recurrent);
  library.impl("reference_chunk_stages", reference_chunk_stages);
}

// On no device, or on any.
STABLE_TORCH_LIBRARY_IMPL(gdn, CompositeExplicitAutograd, library) {
  library.impl("_history", history);
  library.impl("info", info);
  library.impl("kernels", kernels);
  library.impl("last_status", last_status);
  library.impl("version", version);
}
