// States in pools: the arguments that say which slot a sequence reads and which it writes, and the
// rules of the slots by value: in range, written once, and read by none but their writer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "check/common.h"
#include "check/sequences.h"

namespace gdn {

// Sequence `row` writes `slot`, as element `column` of its row of indices says.
struct SlotWrite {
  int64_t slot;
  int64_t row;
  int64_t column;
};

// The writes of a call.
class SlotWrites {
 public:
  // Room for that many; few of them take no allocation.
  explicit SlotWrites(int64_t capacity) {
    if (capacity > kFew) many_.resize(static_cast<size_t>(capacity));
    items_ = capacity > kFew ? many_.data() : few_;
  }
  void add(const SlotWrite& write) { items_[count_++] = write; }

  // Fails where two of them have the same slot. Otherwise find() may be called.
  void check_distinct(Check& check, const char* name, bool has_columns);
  // The write to a slot, or nullptr.
  const SlotWrite* find(int64_t slot) const;

 private:
  static constexpr int64_t kFew = 256;  // a large decode batch, in 6 KiB of stack
  SlotWrite few_[kFew];
  std::vector<SlotWrite> many_;
  SlotWrite* items_;
  int64_t count_ = 0;
};

// Fails where `slot` is past the end of `pool`; negative slots are the caller's business. `element`
// makes the name of the index.
template <class ElementName>
void check_slot(Check& check, int64_t slot, int64_t slots, const char* pool,
                const ElementName& element) {
  if (slot < slots) return;
  check.fail(StatusCode::kOutOfRange, element(), "is " + std::to_string(slot),
             "less than " + std::to_string(slots) + ", the slots of " + pool);
}

// Without indices slot n is sequence n's. More slots than sequences are a pool whose indices
// somebody forgot, and the message says so.
void check_slot_per_sequence(Check& check, const char* pool, const TensorView& view, int64_t N);

// How num_accepted may be meant: it picks a column of initial_state_indices or, where those have
// none, says how much of the one slot is right.
enum class Accepted : uint8_t { kColumns, kColumnsOrOneSlot };

// The arguments that DeltaRuleArgs and CausalConv1dArgs share.
struct StateArgs {
  const TensorView& initial_state;
  const TensorView& final_state;
  const TensorView& initial_state_indices;
  const TensorView& final_state_indices;
  const TensorView& has_initial_state;
  const TensorView& num_accepted;
  std::optional<int64_t> null_slot;

  template <class Args>
  static StateArgs of(const Args& args) {
    return {args.initial_state,
            args.final_state,
            args.initial_state_indices,
            args.final_state_indices,
            args.has_initial_state,
            args.num_accepted,
            args.null_slot};
  }
  bool reads() const { return initial_state.given(); }
  bool writes() const { return final_state.given(); }
  // Without columns no state is stored; a problem's index tensor of no columns has one axis.
  bool stores() const {
    return writes() && !(final_state_indices.rank == 2 && final_state_indices.shape[1] == 0);
  }
  bool one_slot() const { return num_accepted.given() && initial_state_indices.rank != 2; }
};

// All but the state tensors themselves, and values. Fills the shape's state_dtype and the slots.
void check_state_indices(Check& check, const StateArgs& args, const SequenceTable& sequences,
                         Accepted accepted, Shape* shape, StateSlots* slots);

// The states of a call and all that belongs to them, but values. state(name, view, slots, access)
// checks one of the state tensors; the caller puts them into the problem, the final one if
// StateArgs::stores().
template <class Args, class Problem, class CheckState>
void check_states(Check& check, const Args& all, Accepted accepted, Problem* problem,
                  const CheckState& state) {
  const StateArgs args = StateArgs::of(all);
  const int64_t N = problem->sequences.count;
  const bool in_place =
      args.reads() && args.writes() && same_tensor(args.initial_state, args.final_state);
  const auto slots = [&](const char* name, const TensorView& view, const TensorView& indices) {
    if (indices.given()) return Extent("slots");
    check_slot_per_sequence(check, name, view, N);
    return Extent(N);
  };
  if (args.reads()) {
    state("initial_state", args.initial_state,
          slots("initial_state", args.initial_state, args.initial_state_indices),
          in_place ? Access::kShared : Access::kRead);
  }
  if (args.writes()) {
    state("final_state", args.final_state,
          slots("final_state", args.final_state, args.final_state_indices), Access::kWrite);
  }
  if (check.ok() && args.reads() && args.writes() && !in_place &&
      overlap(args.initial_state, args.final_state)) {
    check.fail(StatusCode::kInvalidArgument, "final_state", "overlaps initial_state",
               "the same tensor or memory of its own");
  }
  check_state_indices(check, args, problem->sequences, accepted, &problem->shape, problem);
}

// What the rules of the slots go by besides the indices.
struct Pools {
  bool writes = false;
  bool in_place = false;
  int64_t initial_slots = 0, final_slots = 0;
};

// The values of indices, has_initial_state and num_accepted. Comes last.
void check_slots(Check& check, const StateSlots& slots, const SequenceTable& sequences,
                 const Pools& pools);
template <class Problem>
void check_slots(Check& check, const Problem& problem) {
  const auto& from = problem.initial_state;
  const auto& to = problem.final_state;
  check_slots(check, problem, problem.sequences,
              {to.given(), to.given() && from.data == to.data, from.slots, to.slots});
}

}  // namespace gdn
