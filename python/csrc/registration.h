// What registers the operators with PyTorch: schemas.cc the schemas, the other files the kernels.
#pragma once

#include <torch/csrc/stable/library.h>

namespace gdn::torch_binding {

using StableLibrary = torch::stable::detail::StableLibrary;

void define_schemas(StableLibrary& library);
// The kernels of every operator whose tensors may be on a GPU: the same code for every device.
void implement_for_device(StableLibrary& library);

// A kernel as PyTorch calls it: arguments in the order of the schema on the stack, which it takes
// over, and results in their place. It may throw std::runtime_error.
using Boxed = void (*)(StableIValue* stack, uint64_t arguments, uint64_t results);

void chunk(StableIValue* stack, uint64_t, uint64_t);
void chunk_(StableIValue* stack, uint64_t, uint64_t);
void recurrent(StableIValue* stack, uint64_t, uint64_t);
void recurrent_(StableIValue* stack, uint64_t, uint64_t);
void replay_verify_(StableIValue* stack, uint64_t, uint64_t);
void replay_commit_(StableIValue* stack, uint64_t, uint64_t);
void gating(StableIValue* stack, uint64_t, uint64_t);
void l2norm(StableIValue* stack, uint64_t, uint64_t);
void rms_norm_gated(StableIValue* stack, uint64_t, uint64_t);
void causal_conv1d(StableIValue* stack, uint64_t, uint64_t);
void causal_conv1d_(StableIValue* stack, uint64_t, uint64_t);
void solve_tril(StableIValue* stack, uint64_t, uint64_t);
void reference_recurrent(StableIValue* stack, uint64_t, uint64_t);
void reference_chunk_stages(StableIValue* stack, uint64_t, uint64_t);
void history(StableIValue* stack, uint64_t, uint64_t);
void info(StableIValue* stack, uint64_t, uint64_t);
void kernels(StableIValue* stack, uint64_t, uint64_t);
void last_status(StableIValue* stack, uint64_t, uint64_t);
void version(StableIValue* stack, uint64_t, uint64_t);

}  // namespace gdn::torch_binding
