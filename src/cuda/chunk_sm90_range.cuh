// Which chunks of a sequence a part has, and which of its segments lies behind a boundary.
#pragma once

#include "cuda/chunk_sm90_record.h"
#include "cuda/chunk_sm90_segments.h"
#include "cuda/chunk_table.cuh"
#include "cuda/resolve.cuh"

namespace gdn::cuda::sm90 {

struct Range {
  Sequence s;
  int64_t number = 0;          // of the sequence's first chunk, in the numbering of records
  int64_t begin = 0, end = 0;  // chunks of the sequence
  bool here = false;           // also of a sequence without tokens, in the part of its number
  bool begins = false, ends = false;  // the sequence does

  __device__ int64_t chunks() const { return end - begin; }
  __device__ int64_t in_part(const Part& part) const { return number + begin - part.first; }
};

__device__ inline Range range_of(const DeltaRuleProblem& p, const Part& part, int64_t n,
                                 const Flag& flag) {
  Range range;
  range.s = sequence_of(p.sequences, n, flag);
  const int64_t chunks = (range.s.length + kChunk - 1) / kChunk;
  range.number = ChunkTable{p.sequences, kChunk}.first_chunk(n);
  const int64_t numbers = chunks > 0 ? chunks : 1;
  range.here = range.number < part.end && range.number + numbers > part.first;
  range.begins = range.number >= part.first;
  range.ends = range.number + chunks <= part.end;
  range.begin = range.begins ? 0 : part.first - range.number;
  range.end = range.ends ? chunks : part.end - range.number;
  return range;
}

// The sequence that has a boundary, if it is in use, and the segment that begins there, from 1 on.
struct BoundaryPlace {
  int64_t n = -1;
  int64_t segment = 0;
  bool last = false;  // of the sequence's in the part
};
__device__ inline BoundaryPlace find_boundary(const DeltaRuleProblem& p, const Segments& segments,
                                              const Part& part, int64_t boundary,
                                              const Flag& flag) {
  // Of the sequences whose boundaries begin at or before this one the last has it.
  const int64_t last = part.first + (boundary + 1) * segments.length - 1;
  const int64_t n = ChunkTable{p.sequences, kChunk}.find(last).n;
  if (n >= p.sequences.count) return {};
  const Range range = range_of(p, part, n, flag);
  if (!range.here) return {};
  const int64_t segment = boundary - segments.first_boundary(range.in_part(part)) + 1;
  const int64_t count = segments.count(range.chunks());
  return segment < count ? BoundaryPlace{n, segment, segment + 1 == count} : BoundaryPlace{};
}

}  // namespace gdn::cuda::sm90
