// What a sequence got of a call, bit by bit.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gdn/context.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"
#include "verify/tensor.h"

namespace gdn::tests {

using Bits = std::vector<std::byte>;

// Elements [begin, begin + count) in row-major order, whole rows of the last axis.
inline void append(const verify::Tensor& tensor, int64_t begin, int64_t count, Bits* bits) {
  const TensorView view = tensor.view();
  const int64_t run = view.strides[view.rank - 1] == 1 ? view.shape[view.rank - 1] : 1;
  for (int64_t i = begin; i < begin + count; i += run) {
    const std::byte* p = tensor.element(i);
    bits->insert(bits->end(), p, p + run * size_of(tensor.dtype()));
  }
}

// What a sequence got: out of its tokens, then its last state.
inline std::vector<Bits> bits_of(const verify::DeltaRuleData& data) {
  const verify::Case& c = data.about;
  std::vector<Bits> all;
  int64_t row = 0;
  for (int64_t n = 0; n < c.sequences(); ++n) {
    Bits bits;
    const int64_t length = c.lengths[static_cast<size_t>(n)];
    append(data.out, row * c.HV * c.V, length * c.HV * c.V, &bits);
    row += length;
    if (data.final_state.given()) {
      const int64_t slot =
          data.final_state_indices.given() ? data.final_state_indices.get_int(n) : n;
      const int64_t elements = c.HV * c.V * c.K;
      append(data.final_state, slot * elements, elements, &bits);
    }
    all.push_back(std::move(bits));
  }
  return all;
}

inline void expect_same(const std::vector<Bits>& got, const std::vector<Bits>& expected,
                        const verify::Case& c, const Context& context) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t n = 0; n < got.size(); ++n) {
    EXPECT_TRUE(got[n] == expected[n])
        << "sequence " << n << " has other bits: " << verify::repeat_line(c, context);
  }
}

}  // namespace gdn::tests
