// Rows, or matrices, of tensors with up to three leading axes: their number becomes an offset by
// 32-bit products, where row_offset() of problem.h takes divisions of 64 bits.
#pragma once

#include <cstdint>

#include "cuda/divisor.cuh"

namespace gdn::cuda {

struct Rows {
  uint32_t count = 0;
  Divisor e1, e2;

  Rows(int64_t rows, const int64_t (&extents)[3])
      : count(static_cast<uint32_t>(rows)), e1(extents[1]), e2(extents[2]) {}

  struct Place {
    uint32_t i0, i1, i2;
    __device__ int64_t offset(const int64_t (&strides)[3]) const {
      return i0 * strides[0] + i1 * strides[1] + i2 * strides[2];
    }
  };
  __device__ Place place(uint32_t row) const {
    const uint32_t outer = e2.divide_any(row), i0 = e1.divide_any(outer);
    return {i0, outer - i0 * e1.value, row - outer * e2.value};
  }
};

}  // namespace gdn::cuda
