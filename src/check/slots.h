// Slots of a state pool by value: in range, written once, and read by none but their writer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "check/common.h"

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
  static constexpr int64_t kFew = 64;  // a decode batch of usual size
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

}  // namespace gdn
