// Values of cu_seqlens, indices and num_accepted, read on the device. On the host check/ has seen
// them; here what is out of range counts as padding and raises the caller's flag. Everything else
// about sequences and slots is problem.h's.
#pragma once

#include <cstdint>

#include "problem.h"

namespace gdn::cuda {

struct Flag {
  int32_t* out_of_range;  // or nullptr

  // Returns `wrong`, for conditions.
  __device__ bool raise_if(bool wrong) const {
    if (wrong && out_of_range != nullptr) *out_of_range = 1;
    return wrong;
  }
};

// Sequence n; without tokens where its ends are out of range.
__device__ inline Sequence sequence_of(const SequenceTable& table, int64_t n, const Flag& flag) {
  Sequence s = table.at(n);
  if (!table.cu_seqlens.given()) return s;
  const bool wrong = s.begin < 0 || s.length < 0 || s.begin + s.length > table.row_length ||
                     (n == 0 && s.begin != 0);
  if (flag.raise_if(wrong)) s.begin = s.length = 0;
  return s;
}

// The rows past the last sequence.
__device__ inline Sequence tail_of(const SequenceTable& table) {
  Sequence tail = table.tail();
  if (tail.begin < 0 || tail.length < 0) tail.begin = tail.length = 0;
  return tail;
}

// An index of sequence n as bits: nothing waits for them before value().
struct IndexBits {
  uint32_t low = 0, high = 0;
  bool wide = false;
  __device__ __forceinline__ int64_t value() const {
    return wide ? static_cast<int64_t>(uint64_t{high} << 32 | low) : static_cast<int32_t>(low);
  }
};
__device__ __forceinline__ IndexBits index_bits(const IndexTensor& indices, int64_t n,
                                                int64_t column) {
  const auto* words = reinterpret_cast<const uint32_t*>(indices.place(n, column));
  IndexBits bits{words[0], 0, indices.dtype == DType::kI64};
  if (bits.wide) bits.high = words[1];
  return bits;
}
// That it reads its state by, and, where the last state alone is stored, that it writes it by.
__device__ __forceinline__ IndexBits read_index_of(const StateSlots& p, int64_t n,
                                                   const Flag& flag) {
  if (!p.initial_state_indices.given()) return {static_cast<uint32_t>(n), 0, false};
  const int64_t column = p.initial_column(n);
  const bool columns = p.initial_state_indices.columns > 0;
  if (flag.raise_if(columns && (column < 0 || column >= p.initial_state_indices.columns))) {
    return {~0u, 0, false};  // -1, which is padding
  }
  return index_bits(p.initial_state_indices, n, column);
}
__device__ __forceinline__ IndexBits written_index_of(const StateSlots& p, int64_t n) {
  if (!p.final_state_indices.given()) return {static_cast<uint32_t>(n), 0, false};
  return index_bits(p.final_state_indices, n, 0);
}

// What sequence n starts from: a slot of a pool of `slots`.
__device__ inline StateSlots::Read read_of(const StateSlots& p, int64_t n, const IndexBits& index,
                                           int64_t slots, const Flag& flag) {
  const StateSlots::Read read = p.read_at(n, index.value());
  if (flag.raise_if(read.slot >= slots)) return {true, -1};
  return read;
}
__device__ inline StateSlots::Read read_of(const StateSlots& p, int64_t n, int64_t slots,
                                           const Flag& flag) {
  return read_of(p, n, read_index_of(p, n, flag), slots, flag);
}

// Where the state after token t, or the last one, goes; negative: nowhere.
__device__ inline int64_t written_slot_of(const StateSlots& p, int64_t n, int64_t t, int64_t slots,
                                          const Flag& flag) {
  if (flag.raise_if(p.stores_every_state() && t >= p.final_state_indices.columns)) return -1;
  const int64_t slot = p.written_slot(n, t);
  return flag.raise_if(slot >= slots) ? -1 : slot;
}

__device__ inline int64_t written_slot_of(const StateSlots& p, const IndexBits& index,
                                          int64_t slots, const Flag& flag) {
  const int64_t slot = p.written_at(index.value());
  return flag.raise_if(slot >= slots) ? -1 : slot;
}

// The element where the initial state of sequence n begins in its slot, and whether it is skipped.
__device__ inline InitialState initial_of(const DeltaRuleProblem& p, int64_t n,
                                          const IndexBits& index, const Flag& flag) {
  const int64_t slots = p.initial_state.given() ? p.initial_state.slots : INT64_MAX;
  const StateSlots::Read from = read_of(p, n, index, slots, flag);
  if (from.skip || from.slot < 0 || !p.initial_state.given()) return {from.skip, nullptr};
  return {false, p.initial_state.at(from.slot)};
}
__device__ inline InitialState initial_of(const DeltaRuleProblem& p, int64_t n, const Flag& flag) {
  return initial_of(p, n, read_index_of(p, n, flag), flag);
}

__device__ inline std::byte* final_slot_of(const DeltaRuleProblem& p, int64_t n, int64_t t,
                                           const Flag& flag) {
  if (!p.final_state.given()) return nullptr;
  const int64_t slot = written_slot_of(p, n, t, p.final_state.slots, flag);
  return slot < 0 ? nullptr : p.final_state.at(slot);
}

// The row of the state after token (j + 1) * checkpoint_every.
__device__ inline std::byte* checkpoint_of(const DeltaRuleProblem& p, int64_t n, int64_t j,
                                           const Flag& flag) {
  const int64_t row = p.checkpoint_cu.at(n) + j;
  return flag.raise_if(row < 0 || row >= p.checkpoints.slots) ? nullptr : p.checkpoints.at(row);
}

// The slot of sequence n in a replay call, negative for padding, and how many records to fold in.
struct ReplaySlot {
  int64_t slot = -1;
  int64_t accepted = 0;
};
__device__ inline ReplaySlot replay_slot_of(const ReplayProblem& p, int64_t n, const Flag& flag) {
  const int64_t slot = p.slot(n);
  if (slot < 0 || flag.raise_if(slot >= p.state.slots)) return {};
  const int64_t accepted = p.num_accepted.at(n);
  if (flag.raise_if(accepted < 0 || accepted > p.record_tokens)) return {};
  return {slot, accepted};
}

}  // namespace gdn::cuda
