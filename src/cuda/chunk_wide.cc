#include "cuda/chunk_wide.h"

namespace gdn::cuda::sm90 {

std::atomic<Wide> wide{Wide::kAuto};

bool choose_wide(const Shape& shape, const Device& device, const Segments& segments) {
  const bool pairs = shape.heads > 0 && shape.value_heads / shape.heads % 2 == 0;
  const bool fits = shape.K == 128 && shape.V == 128 && shape.dtype == DType::kBF16;
  if (!fits || !pairs || segments.split()) return false;
  if (wide != Wide::kAuto) return wide == Wide::kAlways;
  // In waves of blocks, of which there is one a multiprocessor. A wave of wide blocks takes 1.86
  // times as long as one of the others (docs/kernels/chunk-sm90.md).
  constexpr int64_t kLonger = 15, kThan = 8;
  const int64_t heads = shape.sequences * shape.value_heads;
  const auto waves = [&](int64_t blocks) {
    return (blocks + device.multiprocessors - 1) / device.multiprocessors;
  };
  return kLonger * waves(heads) < kThan * waves(2 * heads);
}

}  // namespace gdn::cuda::sm90
