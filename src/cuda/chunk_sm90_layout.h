// How a call of the chunk operator on Hopper is worked, and where things lie in its workspace.
#pragma once

#include <cstdint>

#include "cuda/chunk_sm90_beside.h"
#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_segments.h"

namespace gdn::cuda::sm90 {

struct Layout {
  Parts parts;
  Records records;
  Segments segments;
  Boundaries boundaries;  // behind the records
  Partials partials;      // behind these
  Beside beside;          // its flags behind those
  bool wide = false;      // a block of the walk has all V columns of a value head (chunk_wide.h)

  int64_t bytes() const { return beside.offset + beside.bytes(); }
};

}  // namespace gdn::cuda::sm90
