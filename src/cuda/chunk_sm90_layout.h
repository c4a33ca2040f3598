// How a call of the chunk operator on Hopper is worked, and where things lie in its workspace.
#pragma once

#include <cstdint>

#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_segments.h"

namespace gdn::cuda::sm90 {

struct Layout {
  Parts parts;
  Records records;
  Segments segments;
  Boundaries boundaries;  // behind the records
  // Blocks of the preparation, which then runs beside the walk; 0: before it, on all
  // multiprocessors. Beside it, what it leaves is still in the second-level cache when it is read.
  int64_t preparers = 0;
  Ready ready;  // behind the boundaries

  GDN_HOST_DEVICE bool beside() const { return preparers > 0; }
  int64_t bytes() const {
    return ready.offset + (beside() ? parts.of_one * ready.value_heads * 4 : 0);
  }
};

}  // namespace gdn::cuda::sm90
