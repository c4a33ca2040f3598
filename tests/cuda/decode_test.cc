// Decode as servers call it: calls of few and of many sequences, rows of a batch and packs, aligned
// states and widths, which recurrent() and replay take to kernels cut in different ways. No
// bit shows which.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "bits.h"
#include "kernels_under_test.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Case;

Case decode_case(int64_t N, int64_t tokens) {
  Case c;
  c.op = verify::Operator::kRecurrent;
  c.lengths.assign(static_cast<size_t>(N), tokens);
  c.H = 4;
  c.HV = 8;
  c.K = c.V = 128;
  c.dtype = DType::kBF16;
  c.packing = verify::Packing::kRows;
  c.gates = verify::Gates::kComputed;
  c.beta = verify::Beta::kFromB;
  c.l2norm = true;
  c.seed = 23;
  return c;
}

const std::vector<DType>& state_dtypes() {
  static const std::vector<DType> all = {DType::kF32, DType::kBF16, DType::kF16};
  return all;
}

TEST(Decode, AgreesWithTheReferenceHoweverItIsCut) {
  for (DType state : state_dtypes()) {
    for (StateLayout layout : {StateLayout::kVK, StateLayout::kKV}) {
      for (int64_t V : {128, 80, 64}) {  // 80: no multiple of the columns of four warps
        for (int64_t N : {1, 61}) {      // 61 fill the GPU
          Case c = decode_case(N, 1);
          c.state = c.final_state = state;
          c.layout = layout;
          c.V = V;
          c.states = verify::States::kInPlace;
          c.indices = N == 1 ? verify::Indices::kPool64 : verify::Indices::kPool32;
          expect_case(c);
        }
      }
    }
  }
}

TEST(Decode, OfPacksWithPaddingAndATailAgreesWithTheReference) {
  for (DType state : state_dtypes()) {
    Case c = decode_case(5, 1);
    c.lengths = {1, 0, 3, 1, 2};
    c.packing = verify::Packing::kCu32;
    c.tail = 3;
    c.state = c.final_state = state;
    c.indices = verify::Indices::kPool32;
    c.padding = verify::Padding::kBoth;
    expect_case(c);
    c.dtype = DType::kF32;
    expect_case(c);
  }
}

TEST(Decode, OfManySequencesHasTheBitsOfEachAlone) {
  constexpr int64_t kSequences = 61;
  for (DType state : state_dtypes()) {
    for (verify::Packing packing : {verify::Packing::kRows, verify::Packing::kCu32}) {
      for_each_kernel([&](Context& context) {
        Case c = decode_case(kSequences, 1);
        c.state = c.final_state = state;
        verify::DeltaRuleData all = verify::make_delta_rule(c);
        expect_ok(verify::call(context, all));
        for (int64_t n = 0; n < kSequences; n += 12) {
          Case one = decode_case(1, 1);
          one.state = one.final_state = state;
          one.packing = packing;
          one.first = n;
          verify::DeltaRuleData alone = verify::make_delta_rule(one);
          expect_ok(verify::call(context, alone));
          const int64_t in_row = c.HV * c.V, in_state = in_row * c.K;
          Bits got, expected;
          append(all.out, n * in_row, in_row, &got);
          append(all.final_state, n * in_state, in_state, &got);
          append(alone.out, 0, in_row, &expected);
          append(alone.final_state, 0, in_state, &expected);
          EXPECT_TRUE(got == expected) << "sequence " << n;
        }
      });
    }
  }
}

// The records of many sequences: blocks of eight and of four warps, and one warp.
TEST(Decode, VerifiedByReplayAgreesWithTheReferenceHoweverItIsCut) {
  for (DType state : state_dtypes()) {
    for (int64_t V : {128, 80}) {
      for (int64_t N : {2, 61}) {
        Case c = decode_case(N, 4);
        c.op = verify::Operator::kReplay;
        c.state = c.final_state = state;
        c.V = V;
        c.states = verify::States::kInPlace;
        expect_case(c);
      }
    }
  }
}

}  // namespace
}  // namespace gdn::tests
