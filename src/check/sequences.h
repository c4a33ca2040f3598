// Which tokens belong to which sequence.
#pragma once

#include <cstdint>

#include "check/common.h"

namespace gdn {

// cu_seqlens, or the rows of a batch [B,T,...]. Fills the table, and of the shape device,
// sequences, tokens and max_length; where cu_seqlens lies on a device, T stands for the lengths.
void check_sequences(Check& check, const TensorView& cu_seqlens, int64_t B, int64_t T,
                     SequenceTable* sequences, Shape* shape);

// Whether max_length is that of the sequences, not a bound.
inline bool lengths_known(const Check& check, const SequenceTable& sequences) {
  return check.can_read_values() || !sequences.cu_seqlens.given();
}

}  // namespace gdn
