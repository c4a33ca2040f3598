#include "check/slots.h"

#include <algorithm>
#include <string>
#include <tuple>

namespace gdn {

void SlotWrites::check_distinct(Check& check, const char* name, bool has_columns) {
  if (!check.ok()) return;
  std::sort(items_, items_ + count_, [](const SlotWrite& a, const SlotWrite& b) {
    return std::tie(a.slot, a.row, a.column) < std::tie(b.slot, b.row, b.column);
  });
  for (int64_t i = 1; i < count_; ++i) {
    const SlotWrite& first = items_[i - 1];
    const SlotWrite& second = items_[i];
    if (first.slot != second.slot) continue;
    const auto element = [&](const SlotWrite& write) {
      return has_columns ? element_text(name, write.row, write.column)
                         : element_text(name, write.row);
    };
    return check.fail(StatusCode::kOutOfRange, element(second),
                      "is " + std::to_string(second.slot) + " as is " + element(first),
                      "distinct slots");
  }
}

const SlotWrite* SlotWrites::find(int64_t slot) const {
  const SlotWrite* end = items_ + count_;
  const SlotWrite* found =
      std::lower_bound(items_, items_ + count_, slot,
                       [](const SlotWrite& write, int64_t value) { return write.slot < value; });
  return found != end && found->slot == slot ? found : nullptr;
}

namespace {

bool is_same_tensor(const IndexTensor& a, const IndexTensor& b) {
  return a.data == b.data && a.dtype == b.dtype && a.row_stride == b.row_stride &&
         a.column_stride == b.column_stride && a.columns == b.columns;
}

}  // namespace

void check_slot_per_sequence(Check& check, const char* pool, const TensorView& view, int64_t N) {
  if (!check.ok() || view.rank < 1 || view.rank > TensorView::kMaxRank || view.shape[0] <= N)
    return;
  check.fail(StatusCode::kInvalidArgument, pool,
             "has " + std::to_string(view.shape[0]) + " slots for " + std::to_string(N) +
                 (N == 1 ? " sequence" : " sequences"),
             "as many, or " + std::string(pool) + "_indices");
}

void check_state_indices(Check& check, const StateArgs& args, const SequenceTable& sequences,
                         Accepted accepted, Shape* shape, StateSlots* slots) {
  const TensorView& initial_indices = args.initial_state_indices;
  const TensorView& final_indices = args.final_state_indices;
  const int64_t N = sequences.count;
  if (!args.reads()) {
    check.not_given("initial_state_indices", initial_indices, "it only with initial_state");
    check.not_given("has_initial_state", args.has_initial_state, "it only with initial_state");
  }
  if (!args.writes()) {
    check.not_given("final_state_indices", final_indices, "it only with final_state");
  }
  const bool one_slot = accepted == Accepted::kColumnsOrOneSlot && args.one_slot();
  if (args.num_accepted.given()) {
    check.index_tensor("num_accepted", args.num_accepted, {N});
    if (one_slot) {
      check.given_with("initial_state", args.initial_state, "num_accepted");
    } else {
      check.given_with("initial_state_indices", initial_indices, "num_accepted");
      check.index_tensor("initial_state_indices", initial_indices, {N, "M"});
      if (check.ok() && initial_indices.shape[1] < 1) {
        check.fail(StatusCode::kInvalidArgument, "initial_state_indices",
                   "has shape " + shape_text(initial_indices), "at least one column");
      }
    }
  }
  if (initial_indices.given() && (one_slot || !args.num_accepted.given())) {
    if (initial_indices.rank == 2) {
      check.given_with("num_accepted", args.num_accepted, "initial_state_indices of two axes");
    }
    check.index_tensor("initial_state_indices", initial_indices, {N});
  }
  if (args.has_initial_state.given()) {
    check.tensor("has_initial_state", args.has_initial_state, {N}, DTypes::boolean(),
                 Contiguous::kNone, Access::kRead);
  }
  if (final_indices.given()) {
    check.index_tensor("final_state_indices", final_indices, Extents{N, "M"}.last_optional());
    if (check.ok() && final_indices.rank == 2 && one_slot) {
      check.fail(StatusCode::kInvalidArgument, "final_state_indices",
                 "has shape " + shape_text(final_indices),
                 "one slot a sequence, as num_accepted without columns to choose from asks for");
    }
    if (check.ok() && final_indices.rank == 2 && lengths_known(check, sequences) &&
        final_indices.shape[1] < shape->max_length) {
      check.fail(StatusCode::kInvalidArgument, "final_state_indices",
                 "has shape " + shape_text(final_indices),
                 "at least " + std::to_string(shape->max_length) +
                     " columns, one a token of the longest sequence");
    }
  }
  if (!check.ok()) return;

  shape->state_dtype = args.writes()  ? args.final_state.dtype
                       : args.reads() ? args.initial_state.dtype
                                      : DType::kF32;
  slots->initial_state_indices = index_tensor(initial_indices);
  if (args.stores()) slots->final_state_indices = index_tensor(final_indices);
  slots->num_accepted = index_tensor(args.num_accepted);
  slots->null_slot = args.null_slot;
  if (args.has_initial_state.given()) {
    slots->has_initial_state = reinterpret_cast<const bool*>(data_of(args.has_initial_state));
    slots->has_initial_state_stride = args.has_initial_state.strides[0];
  }
}

void check_slots(Check& check, const StateSlots& slots, const SequenceTable& sequences,
                 const Pools& pools) {
  const IndexTensor& initial_indices = slots.initial_state_indices;
  const IndexTensor& final_indices = slots.final_state_indices;
  const IndexTensor& accepted = slots.num_accepted;
  if (!check.can_read_values()) return;
  const int64_t N = sequences.count;
  const bool every = slots.stores_every_state();
  const bool columns = initial_indices.columns > 0;
  const auto initial_name = [&](int64_t n) {
    return columns ? element_text("initial_state_indices", n, slots.initial_column(n))
                   : element_text("initial_state_indices", n);
  };

  // Values that are read before a slot is known.
  for (int64_t n = 0; slots.has_initial_state != nullptr && n < N; ++n) {
    // As a byte: a bool of another value is undefined.
    const auto* bytes = reinterpret_cast<const uint8_t*>(slots.has_initial_state);
    const int value = bytes[n * slots.has_initial_state_stride];
    if (value > 1) {
      return check.fail(StatusCode::kOutOfRange, element_text("has_initial_state", n),
                        "is " + std::to_string(value), "0 or 1");
    }
  }
  for (int64_t n = 0; accepted.given() && n < N; ++n) {
    int64_t most = initial_indices.columns;
    if (!columns) {  // one slot, of which the call may not look at all
      most = sequences.at(n).length;
      if (most == 0 || slots.read(n).slot < 0) continue;
    }
    if (accepted.at(n) < 1 || accepted.at(n) > most) {
      return check.fail(StatusCode::kOutOfRange, element_text("num_accepted", n),
                        "is " + std::to_string(accepted.at(n)), "1 to " + std::to_string(most));
    }
  }

  if (!initial_indices.given() && !final_indices.given()) return;  // slot n is sequence n's alone

  // Only indices that the call looks at count: not those of a skipped sequence's final state, and
  // no column past a sequence's length.
  SlotWrites writes(pools.writes ? (every ? sequences.first_row(N) : N) : 0);
  for (int64_t n = 0; n < N; ++n) {
    if (initial_indices.given()) {
      const int64_t slot = initial_indices.at(n, slots.initial_column(n));
      if (slots.is_padding(slot)) continue;
      check_slot(check, slot, pools.initial_slots, "initial_state",
                 [&] { return initial_name(n); });
    }
    if (!pools.writes) continue;
    if (!final_indices.given()) {
      writes.add({n, n, 0});
      continue;
    }
    const int64_t length = every ? sequences.at(n).length : 1;
    for (int64_t column = 0; column < length; ++column) {
      const int64_t slot = final_indices.at(n, column);
      if (slots.is_padding(slot)) continue;
      check_slot(check, slot, pools.final_slots, "final_state", [&] {
        return every ? element_text("final_state_indices", n, column)
                     : element_text("final_state_indices", n);
      });
      writes.add({slot, n, column});
    }
  }
  if (!check.ok() || !pools.writes) return;
  // States that go back to where they were read: only one of the two was the caller's to give.
  const char* given = is_same_tensor(initial_indices, final_indices) ? "initial_state_indices"
                                                                     : "final_state_indices";
  writes.check_distinct(check, given, every);

  // States updated in place: who reads what another sequence writes?
  if (!check.ok() || !pools.in_place) return;
  for (int64_t n = 0; n < N; ++n) {
    const int64_t slot = slots.read(n).slot;
    if (slot < 0) continue;  // skipped, or from zero
    const SlotWrite* write = writes.find(slot);
    if (write == nullptr || write->row == n) continue;
    const std::string is_slot = "is " + std::to_string(slot);
    if (final_indices.given()) {
      return check.fail(StatusCode::kOutOfRange,
                        every ? element_text("final_state_indices", write->row, write->column)
                              : element_text("final_state_indices", write->row),
                        is_slot, "a slot that sequence " + std::to_string(n) + " does not read");
    }
    return check.fail(StatusCode::kOutOfRange, initial_name(n), is_slot,
                      "a slot that sequence " + std::to_string(write->row) + " does not write");
  }
}

}  // namespace gdn
