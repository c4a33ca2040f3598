#include "device_image.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "check/overlap.h"
#include "cuda/launch.h"

namespace gdn::tests {
namespace {

constexpr size_t kAlignment = 256;
constexpr std::byte kOnes{0xff};

}  // namespace

std::byte* device_memory(size_t bytes, int use) {
  struct Memory {
    std::byte* data = nullptr;
    size_t size = 0;
  };
  thread_local Memory memories[3];
  Memory& memory = memories[use];
  if (bytes > memory.size) {
    cudaFree(memory.data);
    memory = {};
    void* data = nullptr;
    const size_t size = std::max<size_t>(bytes, size_t{1} << 22);
    if (cudaMalloc(&data, size) != cudaSuccess) return nullptr;
    memory = {static_cast<std::byte*>(data), size};
  }
  return memory.data;
}

void DeviceImage::add(TensorView* view, bool written) {
  if (!view->given()) return;
  views_.emplace_back(view, written);
}

Status DeviceImage::place() {
  for (const auto& [view, written] : views_) {
    ByteRange range;
    byte_range(*view, &range);
    if (range.begin == range.end) continue;
    segments_.push_back(
        {static_cast<std::byte*>(nullptr) + range.begin, range.end - range.begin, written});
  }
  std::sort(segments_.begin(), segments_.end(),
            [](const Segment& a, const Segment& b) { return a.host < b.host; });
  std::vector<Segment> merged;
  for (const Segment& segment : segments_) {
    if (merged.empty() || segment.host >= merged.back().host + merged.back().bytes) {
      merged.push_back(segment);
      continue;
    }
    Segment& last = merged.back();
    last.bytes =
        std::max<size_t>(last.bytes, static_cast<size_t>(segment.host - last.host) + segment.bytes);
    last.written = last.written || segment.written;
  }
  segments_ = std::move(merged);
  size_t size = kAlignment;
  for (Segment& segment : segments_) {
    segment.offset = size + reinterpret_cast<uintptr_t>(segment.host) % kAlignment;
    size = (segment.offset + segment.bytes + 2 * kAlignment - 1) / kAlignment * kAlignment;
  }
  size += kAlignment;
  before_.assign(size, kOnes);
  for (const Segment& segment : segments_) {
    std::memcpy(before_.data() + segment.offset, segment.host, segment.bytes);
  }
  after_.resize(size);
  device_ = device_memory(size, 0);
  if (device_ == nullptr) return {StatusCode::kOutOfMemory, "no device memory for the test"};
  for (const auto& [view, written] : views_) {
    view->device = DeviceType::kCUDA;
    auto* data = static_cast<std::byte*>(view->data);
    for (const Segment& segment : segments_) {
      if (data < segment.host || data >= segment.host + segment.bytes) continue;
      view->data = device_ + segment.offset + (data - segment.host);
      break;
    }
  }
  return {};
}

Status DeviceImage::upload(void* stream) {
  return cuda::status_of(cudaMemcpyAsync(device_, before_.data(), before_.size(),
                                         cudaMemcpyHostToDevice,
                                         static_cast<cudaStream_t>(stream)));
}

Status DeviceImage::download(void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  Status status = cuda::status_of(
      cudaMemcpyAsync(after_.data(), device_, after_.size(), cudaMemcpyDeviceToHost, s));
  return status.ok() ? cuda::status_of(cudaStreamSynchronize(s)) : status;
}

std::string DeviceImage::stray_writes() const {
  size_t at = 0;
  const auto same_until = [&](size_t end) {
    const bool same = std::memcmp(before_.data() + at, after_.data() + at, end - at) == 0;
    at = end;
    return same;
  };
  for (const Segment& segment : segments_) {
    if (!same_until(segment.offset)) return "bytes around the tensors were written";
    if (segment.written) {
      at += segment.bytes;
    } else if (!same_until(segment.offset + segment.bytes)) {
      return "an input was written";
    }
  }
  return same_until(before_.size()) ? "" : "bytes after the tensors were written";
}

void DeviceImage::copy_back() const {
  for (const Segment& segment : segments_) {
    if (!segment.written) continue;
    std::memcpy(segment.host, after_.data() + segment.offset, segment.bytes);
  }
}

}  // namespace gdn::tests
