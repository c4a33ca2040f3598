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

// Teams of the preparation that a multiprocessor has at once, each with an item, in blocks of their
// own or in one; and value heads of an item at most: a warp of a team has the gates of one.
constexpr int kTeams = 4, kMostHeadsAtOnce = 4;

// Value heads of an item, of a q/k head's `group`. They share its Gram matrices, but wait for each
// other: so few that there are no more items than teams, and no fewer. They change no bit.
int64_t choose_heads_at_once(int64_t records, int64_t group, int64_t teams);

// From how many records a multiprocessor on blocks of the preparation stay: with fewer the first
// are done not much before the last. Tests set it lower.
extern std::atomic<int64_t> beside_least_records;
// Whether anything may be beside the walk, for tests.
extern std::atomic<bool> beside_allowed;

Beside choose_beside(const Shape& shape, const Device& device, const Parts& parts,
                     const Segments& segments);

}  // namespace gdn::cuda::sm90
