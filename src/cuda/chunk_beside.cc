#include "cuda/chunk_beside.h"

#include <algorithm>

namespace gdn::cuda::sm90 {

int64_t choose_heads_at_once(int64_t records, int64_t group, int64_t teams) {
  const int64_t most = std::min<int64_t>(group, kMostHeadsAtOnce);
  int64_t heads = 1;
  while (heads < most && records > teams * heads) heads = std::min(2 * heads, most);
  return heads;
}

std::atomic<int64_t> beside_least_records{16};
std::atomic<bool> beside_allowed{true};

namespace {

// How many blocks stay: of one sequence, whose chunks are walked in the order in which they are
// prepared, if the preparation keeps up on the multiprocessors that the walk leaves.
int64_t staying_blocks(const Shape& shape, const Device& device, int64_t records) {
  // Multiprocessors left over: the blocks of a cluster want neighbours. What a value head's walk
  // needs of the preparation: a record takes 1.5 to 2 us of one, a chunk of the walk 1 to 1.3.
  constexpr int64_t kSpare = 8;
  constexpr double kPerHead = 1.5;
  const int64_t walks = shape.value_heads * shape.V / 64;
  const int64_t blocks = device.multiprocessors - walks - kSpare;
  const bool keeps_up =
      static_cast<double>(blocks) >= kPerHead * static_cast<double>(shape.value_heads);
  return shape.sequences == 1 && keeps_up &&
                 records >= beside_least_records * device.multiprocessors
             ? blocks
             : 0;
}

}  // namespace

// Of calls in one part. Either blocks stay, or all are resident at once.
Beside choose_beside(const Shape& shape, const Device& device, const Parts& parts,
                     const Segments& segments) {
  const int64_t records = parts.chunks * shape.value_heads;
  if (!beside_allowed || parts.count() != 1 || segments.split() || records == 0) return {};
  const int64_t staying = staying_blocks(shape, device, records);
  const int64_t teams = kTeams * (staying > 0 ? staying : device.multiprocessors);
  const int64_t group = shape.value_heads / shape.heads;
  Beside beside;
  beside.blocks = static_cast<int>(staying);
  beside.heads_at_once = static_cast<int>(choose_heads_at_once(records, group, teams));
  beside.parts = static_cast<int>((group + beside.heads_at_once - 1) / beside.heads_at_once);
  beside.heads = shape.heads;
  beside.chunks = parts.chunks;
  // Numbers of chunks that stay empty (chunk_table.cuh) need no team.
  const int64_t most = std::min(shape.tokens, shape.tokens / kChunk + shape.sequences);
  if (staying == 0 && beside.items(most) > teams) return {};
  return beside;
}

}  // namespace gdn::cuda::sm90
