// Which calls of the chunk operator on Hopper have the preparation beside the recurrence
// (chunk_sm90_beside.h). Pure.
#pragma once

#include <atomic>
#include <cstdint>

#include "cuda/chunk_sm90_beside.h"
#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_segments.h"
#include "cuda/device.h"
#include "gdn/plan.h"

namespace gdn::cuda::sm90 {

// Teams of the preparation that a multiprocessor has, each with an item.
constexpr int kTeams = 4;

// Records of a multiprocessor from which on; with fewer the first are done not much before the
// last. Tests set it lower.
extern std::atomic<int64_t> beside_least_records;

Beside choose_beside(const Shape& shape, const Device& device, const Parts& parts,
                     const Segments& segments);

}  // namespace gdn::cuda::sm90
