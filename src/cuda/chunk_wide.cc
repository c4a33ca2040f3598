#include "cuda/chunk_wide.h"

namespace gdn::cuda::sm90 {

std::atomic<Wide> wide{Wide::kAuto};

bool choose_wide(const Shape& shape, const Device& device, const Segments& segments) {
  const bool pairs = shape.heads > 0 && shape.value_heads / shape.heads % 2 == 0;
  const bool fits = shape.K == 128 && shape.V == 128 && shape.dtype == DType::kBF16;
  if (!fits || !pairs || segments.split()) return false;
  if (wide != Wide::kAuto) return wide == Wide::kAlways;
  // In waves of blocks, of which there is one a multiprocessor. A wave of wide blocks takes 15/8 of
  // the time of one of the others (docs/kernels/chunk-sm90.md).
  constexpr int64_t kLonger = 15, kThan = 8;
  // A sequence by itself takes that longer, too. Where lengths may differ, which a plan does not
  // know, so many waves that one may be nearly three times as long as the average before the call
  // takes longer for it.
  constexpr int64_t kUnevenWaves = 4;
  const int64_t heads = shape.sequences * shape.value_heads;
  const auto waves = [&](int64_t blocks) {
    return (blocks + device.multiprocessors - 1) / device.multiprocessors;
  };
  const bool even = shape.sequences * shape.max_length == shape.tokens;
  return kLonger * waves(heads) < kThan * waves(2 * heads) &&
         (even || waves(2 * heads) >= kUnevenWaves);
}

}  // namespace gdn::cuda::sm90
