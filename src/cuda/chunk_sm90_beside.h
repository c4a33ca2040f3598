// The preparation beside the recurrence: a flag in the workspace for each item that is prepared, so
// that the recurrence begins before all are; and of a long call blocks that stay on some of the
// multiprocessors while the recurrence walks on others.
#pragma once

#include <cstddef>
#include <cstdint>

#include "problem.h"

namespace gdn::cuda::sm90 {

// An item is a chunk and some value heads of a q/k head.
struct Beside {
  int blocks = 0;         // of the preparation that stay, a multiprocessor each; 0: one an item
  int heads_at_once = 1;  // value heads of an item
  int parts = 1;          // items of a q/k head's chunk
  int64_t heads = 1;      // q/k heads
  int64_t chunks = 0;     // of the call; 0: the preparation runs before the walk, without flags
  int64_t offset = 0;     // bytes of the workspace before the flags

  GDN_HOST_DEVICE bool here() const { return chunks > 0; }
  GDN_HOST_DEVICE int64_t items(int64_t of_chunks) const { return of_chunks * heads * parts; }
  // That has a value head, by its number in the group of a q/k head. The group's first has the
  // keys.
  GDN_HOST_DEVICE int64_t item(int64_t chunk, int64_t head, int64_t in_group) const {
    return items(chunk) + head * parts + in_group / heads_at_once;
  }
  GDN_HOST_DEVICE int64_t bytes() const {
    return here() ? items(chunks) * static_cast<int64_t>(sizeof(uint32_t)) : 0;
  }
  // By item.
  GDN_HOST_DEVICE uint32_t* flags(std::byte* workspace) const {
    return reinterpret_cast<uint32_t*>(workspace + offset);
  }
};

}  // namespace gdn::cuda::sm90
