// The bits that replay_verify() and replay_commit() give a sequence depend on that sequence's
// inputs, state and records and the options of the call alone. One test a sentence.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "bits.h"
#include "gdn/ops.h"
#include "kernels_under_test.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::ReplayData;

void append_state(const ReplayData& data, int64_t slot, Bits* bits) {
  const Case& c = data.about;
  append(data.state, slot * c.HV * c.V * c.K, c.HV * c.V * c.K, bits);
}

// Of every sequence: out, the state and the records after verify, the state after commit.
std::vector<Bits> bits_of_case(Context context, const Case& c, int threads = 1) {
  context.executor = executor_of(threads);
  const ReplayData data = verify::make_replay(c);
  expect_ok(replay_verify(context, data.verify_args()));
  std::vector<Bits> all(static_cast<size_t>(c.sequences()));
  const auto slot_of = [&](int64_t n) {
    return data.state_indices.given() ? data.state_indices.get_int(n) : n;
  };
  const int64_t M = data.record_g.shape()[1];
  int64_t row = 0;
  for (int64_t n = 0; n < c.sequences(); ++n) {
    Bits* bits = &all[static_cast<size_t>(n)];
    const int64_t length = c.lengths[static_cast<size_t>(n)], slot = slot_of(n);
    append(data.out, row * c.HV * c.V, length * c.HV * c.V, bits);
    row += length;
    append_state(data, slot, bits);
    append(data.record_k, slot * M * c.H * c.K, length * c.H * c.K, bits);
    append(data.record_v, slot * M * c.HV * c.V, length * c.HV * c.V, bits);
    append(data.record_g, slot * M * c.HV, length * c.HV, bits);
  }
  expect_ok(replay_commit(context, data.commit_args()));
  for (int64_t n = 0; n < c.sequences(); ++n) {
    append_state(data, slot_of(n), &all[static_cast<size_t>(n)]);
  }
  return all;
}

// body(context, case) for every kernel and shape.
template <class Body>
void for_each(const Body& body) {
  struct Dims {
    int64_t H, HV, K, V;
  };
  for_each_kernel([&](Context& context) {
    uint64_t seed = 70;
    for (const Dims& dims : {Dims{1, 2, 32, 40}, Dims{2, 4, 128, 128}, Dims{1, 3, 64, 96}}) {
      if (quick() && dims.K > 32) continue;
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        for (StateLayout layout : {StateLayout::kVK, StateLayout::kKV}) {
          Case c;
          c.op = verify::Operator::kReplay;
          c.states = verify::States::kInPlace;
          c.H = dims.H;
          c.HV = dims.HV;
          c.K = dims.K;
          c.V = dims.V;
          c.dtype = dtype;
          c.layout = layout;
          c.lengths = {4, 1, 3, 4, 0, 2};
          c.seed = seed++;
          if (seed % 2 == 0) {
            c.gates = verify::Gates::kComputed;
            c.beta = verify::Beta::kFromB;
            c.l2norm = true;
          }
          SCOPED_TRACE(verify::repeat_line(c, context));
          body(context, c);
        }
      }
    }
  });
}

TEST(DeterminismOfReplay, ThreadsChangeNoBit) {
  for_each([](Context& context, const Case& c) {
    const auto alone = bits_of_case(context, c, 1);
    expect_same(bits_of_case(context, c, 2), alone, c, context);
    expect_same(bits_of_case(context, c, 5), alone, c, context);
  });
}

TEST(DeterminismOfReplay, NeighboursAndPositionInThePackChangeNoBit) {
  for_each([](Context& context, const Case& shape) {
    Case c = shape;
    c.lengths = {4, 4, 4, 4};  // alike, because the room for records is that of the longest
    const auto together = bits_of_case(context, c);
    for (int64_t n = 0; n < c.sequences(); ++n) {
      Case alone = c;
      alone.lengths = {4};
      alone.first = n;
      expect_same(bits_of_case(context, alone), {together[static_cast<size_t>(n)]}, alone, context);
    }
    Case rows = c;
    rows.packing = verify::Packing::kRows;
    expect_same(bits_of_case(context, rows), together, rows, context);
  });
}

TEST(DeterminismOfReplay, SlotsChangeNoBit) {
  for_each([](Context& context, const Case& c) {
    const auto in_order = bits_of_case(context, c);
    Case pool = c;
    pool.indices = verify::Indices::kPool32;
    expect_same(bits_of_case(context, pool), in_order, pool, context);
    pool.indices = verify::Indices::kPool64;
    expect_same(bits_of_case(context, pool), in_order, pool, context);
  });
}

TEST(DeterminismOfReplay, AlignmentAndStridesChangeNoBit) {
  for_each([](Context& context, const Case& c) {
    const auto aligned = bits_of_case(context, c);
    Case other = c;
    for (int64_t shift : {1, 5}) {
      other.shift = shift;
      expect_same(bits_of_case(context, other), aligned, other, context);
    }
    other.strides = verify::Strides::kFused;
    expect_same(bits_of_case(context, other), aligned, other, context);
  });
}

}  // namespace
}  // namespace gdn::tests
