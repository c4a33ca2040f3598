#include "cuda/chunk_beside.h"

#include <algorithm>

namespace gdn::cuda::sm90 {

std::atomic<int64_t> beside_least_records{16};

// Of one sequence, whose chunks are walked in the order in which they are prepared, by few enough
// blocks that the preparation keeps up on the multiprocessors that they leave.
Beside choose_beside(const Shape& shape, const Device& device, const Parts& parts,
                     const Segments& segments) {
  // Multiprocessors left over: the blocks of a cluster want neighbours.
  constexpr int64_t kSpare = 8, kMostHeads = 4;
  const int64_t walks = shape.value_heads * shape.V / 64;
  const int64_t records = parts.of_one * shape.value_heads;
  if (shape.sequences != 1 || walks == 0 || walks > device.multiprocessors / 2 ||
      segments.split() || records < beside_least_records * device.multiprocessors) {
    return {};
  }
  Beside beside;
  beside.blocks = static_cast<int>(std::max<int64_t>(1, device.multiprocessors - walks - kSpare));
  // As many value heads to an item as share its Gram matrices, unless a team were then without one.
  const int64_t group = shape.value_heads / shape.heads;
  int64_t heads = 1;
  while (heads < std::min(group, kMostHeads) && records > kTeams * beside.blocks * heads) {
    heads = std::min({2 * heads, group, kMostHeads});
  }
  beside.heads_at_once = static_cast<int>(heads);
  beside.parts = static_cast<int>((group + heads - 1) / heads);
  beside.heads = shape.heads;
  beside.chunks = parts.of_one;
  return beside;
}

}  // namespace gdn::cuda::sm90
