// The tensors of a call in one piece of device memory, between bytes of ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gdn/status.h"
#include "gdn/tensor.h"

namespace gdn::tests {

class DeviceImage {
 public:
  // A host tensor of the call, or one that is not given.
  void add(TensorView* view, bool written);

  // Allocates, and points the views to the device. Tensors that share memory share it there too,
  // and every tensor keeps its alignment up to 256 bytes.
  Status place();
  // The call's inputs, as they were when placed, and ones between them.
  Status upload(void* stream);
  Status download(void* stream);

  // After a download: what has no business to be different from the upload.
  std::string stray_writes() const;
  const std::vector<std::byte>& bytes() const { return after_; }
  // Written tensors to the host.
  void copy_back() const;

 private:
  struct Segment {
    std::byte* host;
    size_t bytes;
    bool written;
    size_t offset = 0;  // in the image
  };
  std::vector<std::pair<TensorView*, bool>> views_;
  std::vector<Segment> segments_;
  std::vector<std::byte> before_, after_;
  std::byte* device_ = nullptr;
};

// Device memory of this thread, which grows and is kept; nullptr where there is none.
std::byte* device_memory(size_t bytes, int use);

}  // namespace gdn::tests
