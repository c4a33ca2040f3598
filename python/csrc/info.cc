// Operators without tensors: what this build and this machine have.
#include "call.h"
#include "machine_info.h"
#include "registration.h"

namespace gdn::torch_binding {

void info(StableIValue* stack, uint64_t, uint64_t) {
  Call call(Place(), std::nullopt);
  tools::MachineInfo found;
  require(tools::machine_info(call.context(), "PyTorch", &found));
  stack[0] = result(tools::to_string(found));
}

void version(StableIValue* stack, uint64_t, uint64_t) {
  stack[0] = result(std::string(GDN_VERSION));
}

void kernels(StableIValue* stack, uint64_t, uint64_t) {
  StableListHandle list = nullptr;
  require_ok(torch_new_list_reserve_size(0, &list), "a list");
  for (const KernelInfo& kernel : gdn::kernels()) {
    if (!kernel.supported) continue;
    require_ok(torch_list_push_back(list, result(std::string(kernel.name))), "a list");
  }
  stack[0] = encode(list);
}

}  // namespace gdn::torch_binding
