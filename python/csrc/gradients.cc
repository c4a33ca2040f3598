#include "gradients.h"

#include <cstring>
#include <string>

#include "call.h"
#include "registration.h"

namespace gdn::torch_binding {
namespace {

// The same tensor for a call, which takes it over.
StableIValue share(const Tensor& tensor) {
  AtenTensorHandle handle = nullptr;
  require_ok(aoti_torch_new_tensor_handle(tensor.handle(), &handle), "a tensor");
  return encode(handle);
}

}  // namespace

// _history(Tensor[] tensors) -> Tensor: an empty tensor. PyTorch's kernel for operators that have
// none for autograd gives it a history where one of the tensors requires a gradient. Whatever
// device they are on.
void history(StableIValue* stack, uint64_t, uint64_t) {
  StableListHandle list = nullptr;
  std::memcpy(&list, &stack[0], sizeof list);
  size_t size = 0;
  require_ok(torch_list_size(list, &size), "a list");
  // Deleting the list does not delete the handles in it.
  for (size_t i = 0; i < size; ++i) {
    StableIValue element = 0;
    require_ok(torch_list_get_item(list, i, &element), "a list");
    AtenTensorHandle handle = nullptr;
    std::memcpy(&handle, &element, sizeof handle);
    aoti_torch_delete_tensor_object(handle);
  }
  torch_delete_list(list);
  stack[0] = result(empty_tensor(aoti_torch_dtype_float32(), Place()));
}

void require_no_gradients(const char* op, std::initializer_list<const Tensor*> tensors) {
  if (!aoti_torch_grad_mode_is_enabled()) return;
  StableListHandle list = nullptr;
  require_ok(torch_new_list_reserve_size(tensors.size(), &list), "a list");
  for (const Tensor* tensor : tensors) {
    if (!tensor->given()) continue;
    require_ok(torch_list_push_back(list, share(*tensor)), "a list");
  }
  StableIValue stack[1] = {encode(list)};
  require_ok(torch_call_dispatcher("gdn::_history", "", stack, TORCH_ABI_VERSION), "a history");
  // The call takes the tensor over and leaves the answer.
  require_ok(torch_call_dispatcher("aten::is_leaf", "", stack, TORCH_ABI_VERSION), "a history");
  bool is_leaf = true;
  std::memcpy(&is_leaf, &stack[0], sizeof is_leaf);
  if (!is_leaf) {
    fail(StatusCode::kInvalidArgument,
         std::string(op) +
             ": a tensor requires a gradient, expected none or torch.no_grad(): it updates its "
             "states in place and has no backward");
  }
}

void count_write(std::initializer_list<const Tensor*> tensors) {
  // PyTorch's stable interface has no name for it, but every in-place operator of PyTorch does it:
  // this one swaps an axis with itself. A tensor made under torch.inference_mode() has no version,
  // and would refuse.
  for (const Tensor* tensor : tensors) {
    if (!tensor->given()) continue;
    bool is_inference = true;
    StableIValue asked[1] = {share(*tensor)};
    require_ok(torch_call_dispatcher("aten::is_inference", "", asked, TORCH_ABI_VERSION),
               "a version");
    std::memcpy(&is_inference, &asked[0], sizeof is_inference);
    if (is_inference) continue;
    StableIValue swap[3] = {share(*tensor), encode(int64_t{0}), encode(int64_t{0})};
    require_ok(torch_call_dispatcher("aten::transpose_", "", swap, TORCH_ABI_VERSION), "a version");
    AtenTensorHandle handle = nullptr;
    std::memcpy(&handle, &swap[0], sizeof handle);
    aoti_torch_delete_tensor_object(handle);
  }
}

}  // namespace gdn::torch_binding
