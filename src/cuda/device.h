// The GPU that a plan is made for.
#pragma once

#include "gdn/status.h"

namespace gdn::cuda {

struct Device {
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int shared_bytes_per_block = 0;  // with the opt-in
  bool supported() const { return major >= 8; }
};

// The current device. Fails with the error's name where there is none.
Status current_device(Device* device);

}  // namespace gdn::cuda
