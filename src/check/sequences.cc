#include "check/sequences.h"

#include <algorithm>
#include <string>

namespace gdn {
namespace {

constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;

}  // namespace

void check_sequences(Check& check, const TensorView& cu_seqlens, int64_t B, int64_t T,
                     SequenceTable* sequences, Shape* shape) {
  shape->device = check.device();
  shape->sequences = B;
  shape->max_length = T;
  shape->tokens = B * T;
  sequences->count = B;
  sequences->row_length = T;
  if (!cu_seqlens.given()) return;
  check.index_tensor("cu_seqlens", cu_seqlens, {"N+1"});
  if (!check.ok()) return;
  const int64_t N = cu_seqlens.shape[0] - 1;
  if (N < 0) return check.fail(kInvalid, "cu_seqlens", "has shape [0]", "at least one element");
  if (B != 1) {
    return check.fail(kInvalid, "cu_seqlens", "is given with B = " + std::to_string(B), "B = 1");
  }
  sequences->cu_seqlens = index_tensor(cu_seqlens);
  sequences->count = N;
  shape->sequences = N;
  if (!check.can_read_values()) return;  // T bounds what the device will find
  const auto at = [&](int64_t n) { return sequences->cu_seqlens.at(n); };
  const auto fail = [&](int64_t n, const std::string& expected) {
    check.fail(StatusCode::kOutOfRange, element_text("cu_seqlens", n),
               "is " + std::to_string(at(n)), expected);
  };
  if (at(0) != 0) return fail(0, "0");
  shape->max_length = 0;
  for (int64_t n = 0; n < N; ++n) {
    if (at(n + 1) < at(n)) {
      return fail(n + 1, "at least " + std::to_string(at(n)) + ", the element before it");
    }
    if (at(n + 1) > T) return fail(n + 1, "at most T = " + std::to_string(T));
    shape->max_length = std::max(shape->max_length, at(n + 1) - at(n));
  }
  shape->tokens = at(N);
}

}  // namespace gdn
