// In-place operators have no gradient, and must not pretend to: the caller hears of it.
#pragma once

#include <initializer_list>

#include "stack.h"

namespace gdn::torch_binding {

// Throws where PyTorch records gradients and one of the tensors (those that are given) requires
// one. PyTorch's stable interface cannot ask a tensor for that, so an operator asks for it
// (gradients.cc): it costs a microsecond, under grad mode alone.
void require_no_gradients(const char* op, std::initializer_list<const Tensor*> tensors);

}  // namespace gdn::torch_binding
