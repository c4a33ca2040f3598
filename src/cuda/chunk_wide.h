// Which calls of the chunk operator on Hopper are walked by blocks that have all 128 V columns of a
// value head, in clusters of two value heads of a q/k head. Such a block loads for both halves what
// otherwise two blocks load, and the cluster k and q for both heads: a fifth fewer bytes from the
// second-level cache, of which calls that fill the GPU have not enough. But a chunk of it takes
// longer than one of half the columns, which is lost where one long sequence is what takes the
// time. Pure.
#pragma once

#include <atomic>

#include "cuda/chunk_sm90_segments.h"
#include "cuda/device.h"
#include "gdn/plan.h"

namespace gdn::cuda::sm90 {

// Of the calls that may be. It changes no bit. Tests choose.
enum class Wide { kAuto, kNever, kAlways };
extern std::atomic<Wide> wide;

bool choose_wide(const Shape& shape, const Device& device, const Segments& segments);

}  // namespace gdn::cuda::sm90
