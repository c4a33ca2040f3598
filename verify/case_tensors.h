// The tensors that a Case asks for, before their values: shapes, strides, places; and the streams
// of numbers that fill them. For the generators alone.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "verify/case.h"
#include "verify/random.h"
#include "verify/tensor.h"

namespace gdn::verify {

// Every tensor has streams of its own, one per sequence where it has tokens, so that the contents
// of a sequence do not depend on its neighbours.
enum Stream : uint64_t {
  kQ,
  kKeys,
  kDirection,
  kValues,
  kDecay,
  kDtBias,
  kA,
  kB,
  kState,
  kHasInitial,
  kSlots,
  kAcceptedTokens,
  kRecordK,
  kRecordV,
  kRecordG,
  kCommit,
  kWeight,
  kBias,
};
Random stream(const Case& c, Stream s, int64_t sequence = 0);

// Rows and axes of the tensors of tokens.
struct Layout {
  explicit Layout(const Case& c)
      : packed(c.packing != Packing::kRows),
        batch(packed ? 1 : c.sequences()),
        rows(packed ? c.tokens() + c.tail : c.max_length()) {}
  bool packed;
  int64_t batch, rows;
};

// Row-major strides with gaps after every axis but the last.
std::vector<int64_t> padded_strides(const std::vector<int64_t>& shape, bool last_contiguous);

// [B,T,heads] or, with dim > 0, [B,T,heads,dim].
Tensor token_tensor(const Case& c, DType dtype, int64_t heads, int64_t dim = 0);
// Vectors and indices.
Tensor small_tensor(const Case& c, DType dtype, std::vector<int64_t> shape);
Tensor cu_seqlens_tensor(const Case& c);
// Parts of one buffer [B,T,sum of widths], as a fused projection gives them.
std::vector<Tensor> fused_tensors(const Case& c, DType dtype,
                                  const std::vector<std::pair<int64_t, int64_t>>& heads_and_dims);

// Calls body(t, row) for the tokens of sequence n; row counts [B,T] flattened.
template <class Body>
void for_each_token(const Case& c, int64_t n, const Body& body) {
  int64_t row = 0;
  for (int64_t m = 0; m < n; ++m) row += c.lengths[static_cast<size_t>(m)];
  for (int64_t t = 0; t < c.lengths[static_cast<size_t>(n)]; ++t) body(t, row + t);
}

std::vector<double> normals(Random* random, int64_t count);

}  // namespace gdn::verify
