#include "check/slots.h"

#include <algorithm>
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

}  // namespace gdn
