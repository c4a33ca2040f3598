// What a sequence got of a call, bit by bit.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "gdn/context.h"
#include "verify/case.h"
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

inline void expect_same(const std::vector<Bits>& got, const std::vector<Bits>& expected,
                        const verify::Case& c, const Context& context) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t n = 0; n < got.size(); ++n) {
    EXPECT_TRUE(got[n] == expected[n])
        << "sequence " << n << " has other bits: " << verify::repeat_line(c, context);
  }
}

}  // namespace gdn::tests
