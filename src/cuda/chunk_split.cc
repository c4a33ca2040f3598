#include "cuda/chunk_split.h"

#include <algorithm>
#include <cmath>

#include "cuda/chunk_sm90_record.h"

namespace gdn::cuda::sm90 {
namespace {

// Microseconds on an H200, fitted to what was timed (docs/kernels/chunk-sm90.md): of a block's
// beginning and end; of a step of the fold; of launches; of what completes outputs, and of its
// bytes. kBeside: how much longer a chunk of a first segment takes while others are walked beside
// it.
constexpr double kBlockTime = 4, kFoldTime = 1.5, kLaunchTime = 20, kBeside = 1.08;
constexpr double kCompleteTime = 2.5, kMegabyteTime = 0.65;
// From 0 at `few` to 1 at `many`.
double share(int64_t blocks, double few, double many) {
  return std::clamp((static_cast<double>(blocks) - few) / (many - few), 0.0, 1.0);
}
// Of a chunk with outputs, of so many blocks: with many at once, memory is the slower.
double chunk_time(int64_t blocks) { return 1.05 + 0.2 * share(blocks, 64, 128); }
// Of a chunk without outputs, beside so many first segments.
double chunk_time_without(int64_t walks) { return 0.92 + 0.1 * share(walks, 32, 64); }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks that start as multiprocessors become free.
double time_of_blocks(int64_t blocks, double each, int64_t multiprocessors) {
  return static_cast<double>(ceil_div(blocks, multiprocessors)) * (kBlockTime + each);
}

// Of the first pass: blocks of first segments, and beside and after them those without outputs.
double time_of_first_pass(int64_t firsts, double first, int64_t others, double other,
                          int64_t multiprocessors) {
  first += kBlockTime;
  other += kBlockTime;
  const auto done = [&](double until) {
    const auto of_each = [&](double time) {
      return time < other ? 0 : static_cast<int64_t>(time / other + 1e-6);
    };
    return (multiprocessors - firsts) * of_each(until) + firsts * of_each(until - first);
  };
  // The last of them ends at a multiple of `other`, from the beginning or from the end of a first.
  // All multiprocessors at work until then would not be enough.
  const double least = static_cast<double>(others) / static_cast<double>(multiprocessors) * other;
  const auto end = [&](double from) {
    double until = from + std::max(0.0, std::floor((least - from) / other)) * other;
    while (done(until) < others) until += other;
    return until;
  };
  return std::max(first, std::min(end(0), end(first)));
}

// Two segments walked once, and the time that takes. Chunks of the second take a tenth longer:
// their outputs leave in float32.
struct Choice {
  Segments segments;
  double time;
};
Choice walked_once(int64_t chunks, const Shape& shape, int64_t multiprocessors) {
  const int64_t second = chunks * 15 / 32;
  const int64_t walks = shape.value_heads * shape.V / 64;
  const int64_t blocks = 2 * walks + shape.value_heads * shape.K / 64;
  const double megabytes =
      static_cast<double>(second * shape.value_heads * 64 * (shape.V * 10 + shape.K * 4)) * 1e-6;
  return {{chunks - second, second, true},
          time_of_blocks(blocks, static_cast<double>(chunks - second) * chunk_time(blocks),
                         multiprocessors) +
              kCompleteTime + megabytes * kMegabyteTime};
}

Segments fastest(int64_t sequences, int64_t chunks, const Shape& shape, int64_t multiprocessors,
                 bool may_walk_once) {
  constexpr int64_t kMostSegments = 24, kLengths = 6;  // that are looked at
  const int64_t heads = sequences * shape.value_heads;
  const int64_t v_parts = shape.V / 64, m_and_n = v_parts + shape.K / 64;
  const int64_t walks = heads * v_parts;
  Segments best;
  if (walks >= multiprocessors) return best;  // all are at work without
  double least =
      time_of_blocks(walks, static_cast<double>(chunks) * chunk_time(walks), multiprocessors);
  for (int64_t count = 3; count <= std::min(kMostSegments, chunks / 2); ++count) {
    // The first segment is walked once and the others twice: it is as long as one to two of them.
    const int64_t longest = chunks / count, shortest = ceil_div(chunks, count + 1);
    const int64_t step = std::max<int64_t>(1, (longest - shortest) / kLengths);
    for (int64_t length = shortest; length <= longest; length += step) {
      const Segments segments{chunks - (count - 1) * length, length};
      const int64_t others = heads * m_and_n * (count - 2), after = walks * (count - 1);
      const double time =
          time_of_first_pass(
              walks, static_cast<double>(segments.first) * kBeside * chunk_time(walks), others,
              static_cast<double>(length) * chunk_time_without(walks), multiprocessors) +
          time_of_blocks(after, static_cast<double>(length) * chunk_time(after), multiprocessors) +
          static_cast<double>(count - 2) * kFoldTime + kLaunchTime;
      if (time < least) {
        least = time;
        best = segments;
      }
    }
  }
  // Shorter calls, and such as leave less room, have not been timed.
  constexpr int64_t kLeastChunks = 24;
  if (may_walk_once && chunks >= kLeastChunks && 4 * walks <= multiprocessors) {
    const Choice once = walked_once(chunks, shape, multiprocessors);
    if (once.time < least) best = once.segments;
  }
  return best;
}

}  // namespace

Segments choose_segments(const Shape& shape, const Device& device, const Parts& parts,
                         bool checkpoints) {
  const bool empty = shape.sequences == 0 || shape.tokens == 0;
  if (shape.context_split == ContextSplit::kOff || empty) return {};
  if (shape.context_split == ContextSplit::kFixed) {
    if (shape.value_heads > kFixedHeads || shape.max_length <= kFixedSegment * kChunk) return {};
    return {kFixedSegment, kFixedSegment};
  }
  // Lengths are known on the device alone: as if all were the same. A part that has not all has
  // some of the sequences, or of one.
  const int64_t chunks = ceil_div(ceil_div(shape.tokens, shape.sequences), kChunk);
  const int64_t part_chunks = parts.of_one;
  const int64_t sequences = std::max<int64_t>(1, std::min(shape.sequences, part_chunks / chunks));
  const bool may_walk_once =
      shape.sequences == 1 && shape.dtype == DType::kBF16 && parts.count() == 1 && !checkpoints;
  return fastest(sequences, std::min(chunks, part_chunks), shape, device.multiprocessors,
                 may_walk_once);
}

}  // namespace gdn::cuda::sm90
