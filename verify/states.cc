#include "verify/states.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "verify/case_tensors.h"

namespace gdn::verify {
namespace {

constexpr int64_t kWildIndex = 1 << 30;  // where an index is to be ignored

bool is_padding_write(const Case& c, int64_t n, int64_t t) {
  return c.padding != Padding::kNone && (n + t + static_cast<int64_t>(c.seed % 3)) % 3 == 1;
}

// Indices::kOneSlot: some of the newest inputs of the slot count, the others are NaN.
void accept_some(const Case& c, int64_t slot, int64_t n, StateData* data) {
  const int64_t length = c.lengths[static_cast<size_t>(n)];
  if (length == 0) return;
  const int64_t accepted = 1 + stream(c, kAcceptedTokens, n).below(length);
  data->num_accepted.set_int(n, accepted);
  const int64_t S = c.state_length();
  for (int64_t channel = 0; channel < c.D; ++channel) {
    for (int64_t i = S - (length - accepted); i < S; ++i) {
      data->initial_state.set((slot * c.D + channel) * S + i,
                              std::numeric_limits<double>::quiet_NaN());
    }
  }
}

}  // namespace

Slots::Slots(int64_t count, std::optional<int64_t> null_slot, Random* random)
    : order_(random->permutation(count)) {
  if (null_slot) std::erase(order_, *null_slot);
}

int64_t Slots::take() {
  const int64_t slot = order_.back();
  order_.pop_back();
  return slot;
}

bool is_padding_read(const Case& c, int64_t n) {
  return c.padding != Padding::kNone && (n + static_cast<int64_t>(c.seed % 3)) % 3 == 0;
}

int64_t padding_index(const Case& c, std::optional<int64_t> null_slot, int64_t n) {
  const bool null = c.padding == Padding::kNullSlot || (c.padding == Padding::kBoth && n % 2 == 0);
  return null ? *null_slot : n % 4 == 1 ? -5 : -1;
}

std::optional<int64_t> null_slot_of(const Case& c) {
  if (c.padding == Padding::kNullSlot) return 0;  // vLLM's
  if (c.padding == Padding::kBoth) return 2;
  return std::nullopt;
}

Tensor slot_tensor(const Case& c, DType dtype, std::vector<int64_t> shape) {
  Placement placement{{}, c.shift};
  if (c.strides == Strides::kPadded) {
    placement.strides.resize(shape.size());
    int64_t stride = 1;
    for (size_t axis = shape.size(); axis-- > 0;) {
      placement.strides[axis] = stride;
      stride *= std::max<int64_t>(1, shape[axis]);
    }
    placement.strides[0] += 7;
  }
  return Tensor(dtype, std::move(shape), std::move(placement));
}

Tensor state_tensor(const Case& c, DType dtype, int64_t slots) {
  if (c.op != Operator::kCausalConv1d) {
    const bool vk = c.layout == StateLayout::kVK;
    return slot_tensor(c, dtype, {slots, c.HV, vk ? c.V : c.K, vk ? c.K : c.V});
  }
  const int64_t D = c.D, S = c.state_length();
  const bool padded = c.strides == Strides::kPadded;
  Placement placement{{}, c.shift};
  if (c.channels_last) {
    placement.strides = padded ? padded_strides({slots, S, D}, true) : std::vector{S * D, D, 1L};
    std::swap(placement.strides[1], placement.strides[2]);
  } else if (padded) {
    placement.strides = padded_strides({slots, D, S}, false);
  }
  return Tensor(dtype, {slots, D, S}, std::move(placement));
}

void fill_state(const Case& c, Tensor* states, int64_t slot, int64_t sequence) {
  Random random = stream(c, kState, sequence);
  const double scale = c.op == Operator::kCausalConv1d ? 1 : .1;
  const int64_t elements = states->size() / states->extent(0);
  for (int64_t i = 0; i < elements; ++i) states->set(slot * elements + i, scale * random.normal());
}

void make_states(const Case& c, StateData* data) {
  const int64_t N = c.sequences();
  const bool reads = c.states != States::kFinalOnly && c.states != States::kNone;
  const bool writes = c.states != States::kInitialOnly && c.states != States::kNone;
  const bool in_place = c.states == States::kInPlace;
  const bool indexed = c.indices != Indices::kNone;
  const bool columns = c.indices == Indices::kPerToken || c.indices == Indices::kAccepted;
  const int64_t M = columns ? c.max_length() + 2 : 0;
  const DType index_dtype =
      c.indices == Indices::kPool32 || c.indices == Indices::kPerToken ? DType::kI32 : DType::kI64;
  Random random = stream(c, kSlots);
  if (indexed) data->null_slot = null_slot_of(c);

  // The most slots that each pool is asked for, and some that no sequence names.
  const int64_t reads_named = c.indices == Indices::kAccepted ? N * M : N + 1;
  const int64_t writes_named = columns ? c.tokens() : N;
  const int64_t initial_count =
      indexed ? reads_named + (in_place ? writes_named : 0) + kSpareSlots : N;
  const int64_t final_count = indexed ? writes_named + kSpareSlots : N;
  if (reads) data->initial_state = state_tensor(c, c.state, initial_count);
  if (writes) {
    data->final_state =
        in_place ? data->initial_state : state_tensor(c, c.final_state, final_count);
  }
  if (c.has_initial) {
    data->has_initial_state = small_tensor(c, DType::kBool, {N});
    for (int64_t n = 0; n < N; ++n) {
      data->has_initial_state.set_int(n, stream(c, kHasInitial, n).below(3) != 0);
    }
  }
  // NaN stays in the slots that has_initial_state says not to read.
  const auto fill = [&](int64_t slot, int64_t n) {
    if (!c.has_initial || data->has_initial_state.get_int(n)) {
      fill_state(c, &data->initial_state, slot, n);
      if (c.indices == Indices::kOneSlot) accept_some(c, slot, n, data);
    }
  };
  if (c.indices == Indices::kOneSlot) {
    data->num_accepted = small_tensor(c, index_dtype, {N});
    for (int64_t n = 0; n < N; ++n) data->num_accepted.set_int(n, kWildIndex);
  }
  if (!indexed) {
    for (int64_t n = 0; reads && n < N; ++n) fill(n, n);
    return;
  }

  Slots initial_slots(initial_count, data->null_slot, &random);
  Slots final_slots(final_count, data->null_slot, &random);
  const auto fresh_final = [&] { return (in_place ? initial_slots : final_slots).take(); };
  std::vector<int64_t> read_slot(static_cast<size_t>(N), -1);
  if (reads && c.indices == Indices::kAccepted) {
    data->initial_state_indices = small_tensor(c, index_dtype, {N, M});
    data->num_accepted = small_tensor(c, index_dtype, {N});
    for (int64_t n = 0; n < N; ++n) {
      const int64_t accepted = 1 + stream(c, kAcceptedTokens, n).below(M);
      data->num_accepted.set_int(n, accepted);
      for (int64_t t = 0; t < M; ++t) {
        data->initial_state_indices.set_int(n * M + t, initial_slots.take());
      }
      const int64_t at = n * M + accepted - 1;
      if (is_padding_read(c, n)) {
        data->initial_state_indices.set_int(at, padding_index(c, data->null_slot, n));
      } else {
        fill(data->initial_state_indices.get_int(at), n);
      }
    }
  } else if (reads) {
    data->initial_state_indices = small_tensor(c, index_dtype, {N});
    const int64_t shared = initial_slots.take();
    fill_state(c, &data->initial_state, shared, 0);
    for (int64_t n = 0; n < N; ++n) {
      const bool alone = c.indices != Indices::kShared;
      const int64_t slot = alone ? initial_slots.take() : shared;
      if (is_padding_read(c, n)) {
        data->initial_state_indices.set_int(n, padding_index(c, data->null_slot, n));
        continue;
      }
      data->initial_state_indices.set_int(n, slot);
      if (alone) fill(slot, n);
      read_slot[static_cast<size_t>(n)] = alone ? slot : -1;
    }
  }
  if (!writes) return;
  data->final_state_indices =
      columns ? small_tensor(c, index_dtype, {N, M}) : small_tensor(c, index_dtype, {N});
  for (int64_t n = 0; n < N; ++n) {
    const int64_t length = c.lengths[static_cast<size_t>(n)];
    for (int64_t t = 0; t < std::max<int64_t>(1, M); ++t) {
      const int64_t at = columns ? n * M + t : n;
      int64_t slot = kWildIndex;  // of the columns past the sequence
      if (!columns || t < length) {
        const bool last = !columns || t == length - 1;
        const int64_t own = read_slot[static_cast<size_t>(n)];
        if (is_padding_write(c, n, t)) {
          slot = padding_index(c, data->null_slot, n + t);
        } else if (in_place && c.indices == Indices::kAccepted) {
          // The columns that are read and written are the same slots.
          slot = data->initial_state_indices.get_int(at);
        } else if (in_place && last && own >= 0 && n % 2 == 0) {
          slot = own;
        } else {
          slot = fresh_final();
        }
      }
      data->final_state_indices.set_int(at, slot);
    }
  }
}

}  // namespace gdn::verify
