// Between tensors of any dtype, layout and stride and contiguous doubles: rows of tokens and slots
// of states. Loads are exact, stores round once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "gdn/ops.h"
#include "half.h"
#include "problem.h"
#include "reference/rounding.h"

namespace gdn::reference {

inline void load_row(const std::byte* p, DType dtype, int64_t n, double* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = load_float(p + i * size_of(dtype), dtype);
}

inline void store_row(const double* from, int64_t n, std::byte* p, DType dtype) {
  for (int64_t i = 0; i < n; ++i) store_rounded(p + i * size_of(dtype), dtype, from[i]);
}

// Where element (v, k) of a value head lies in a slot.
inline int64_t state_offset(const Shape& shape, int64_t head, int64_t v, int64_t k) {
  return head * shape.V * shape.K +
         (shape.layout == StateLayout::kVK ? v * shape.K + k : k * shape.V + v);
}

// A value head's state from its slot, or zero from nullptr, to [V,K].
inline void load_state(const std::byte* slot, DType dtype, const Shape& shape, int64_t head,
                       double* state) {
  for (int64_t v = 0; v < shape.V; ++v) {
    for (int64_t k = 0; k < shape.K; ++k) {
      state[v * shape.K + k] =
          slot ? load_float(slot + state_offset(shape, head, v, k) * size_of(dtype), dtype) : 0.0;
    }
  }
}

// And back; to nullptr nothing is stored.
inline void store_state(const double* state, const Shape& shape, int64_t head, std::byte* slot,
                        DType dtype) {
  if (slot == nullptr) return;
  for (int64_t v = 0; v < shape.V; ++v) {
    for (int64_t k = 0; k < shape.K; ++k) {
      store_rounded(slot + state_offset(shape, head, v, k) * size_of(dtype), dtype,
                    state[v * shape.K + k]);
    }
  }
}

}  // namespace gdn::reference
