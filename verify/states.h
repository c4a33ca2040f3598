// States in pools, and the indices that name them. For the generators alone.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/random.h"
#include "verify/tensor.h"

namespace gdn::verify {

constexpr int64_t kSpareSlots = 3;  // that no sequence names

// Gives out distinct slots, in no order, never the null slot.
class Slots {
 public:
  Slots(int64_t count, std::optional<int64_t> null_slot, Random* random);
  int64_t take();

 private:
  std::vector<int64_t> order_;
};

// Which sequences are padding: the kinds alternate, and N = 1 has either.
bool is_padding_read(const Case& c, int64_t n);
int64_t padding_index(const Case& c, std::optional<int64_t> null_slot, int64_t n);
std::optional<int64_t> null_slot_of(const Case& c);

// [slots, ...]: a gap after every slot alone, padded.
Tensor slot_tensor(const Case& c, DType dtype, std::vector<int64_t> shape);
// The states of the operator.
Tensor state_tensor(const Case& c, DType dtype, int64_t slots);
void fill_state(const Case& c, Tensor* states, int64_t slot, int64_t sequence);

// Slots, indices, initial states, has_initial_state and num_accepted.
void make_states(const Case& c, StateData* data);

}  // namespace gdn::verify
