// What an in-place operator owes autograd: it has no gradient, and must not pretend to, so the
// caller hears of it; and a backward that has saved the tensors that it writes must hear of that.
#pragma once

#include <initializer_list>

#include "stack.h"

namespace gdn::torch_binding {

// Throws where PyTorch records gradients and one of the tensors (those that are given) requires
// one. PyTorch's stable interface cannot ask a tensor for that, so an operator asks for it
// (gradients.cc): it costs a microsecond, under grad mode alone.
void require_no_gradients(const char* op, std::initializer_list<const Tensor*> tensors);

// Counts up the versions of the tensors (those that are given) that a call is about to write: by
// them PyTorch finds that a tensor which a backward has saved is no longer what it was. Half a
// microsecond a tensor.
void count_write(std::initializer_list<const Tensor*> tensors);

}  // namespace gdn::torch_binding
