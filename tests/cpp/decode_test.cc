// One token on states of a pool, which kernels may take on another way than several tokens: sizes
// with and without a kernel of their own, tails, dtypes of tokens and of states.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
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
using verify::DeltaRuleData;
using verify::Tensor;

struct Dims {
  int64_t H, HV, K, V;
};

Case decode_case(const Dims& dims, DType dtype, DType state) {
  Case c;
  c.op = verify::Operator::kRecurrent;
  c.H = dims.H;
  c.HV = dims.HV;
  c.K = dims.K;
  c.V = dims.V;
  c.dtype = dtype;
  c.state = c.final_state = state;
  c.gates = verify::Gates::kComputed;
  c.beta = verify::Beta::kFromB;
  c.l2norm = true;
  c.lengths = {1, 1, 1};
  c.seed = 300 + static_cast<uint64_t>(dims.K + dims.V);
  return c;
}

// After a call.
DeltaRuleData decoded(const Context& context, DeltaRuleData data, int threads) {
  Context own = context;
  own.executor = executor_of(threads);
  expect_ok(verify::call(own, data));
  return data;
}

// Whole tiles of 16 columns and less than one, parts of a unit of 32, more value heads than are
// prepared together.
std::vector<Dims> sizes() {
  if (quick()) return {{1, 2, 64, 24}, {1, 1, 40, 16}};
  return {{2, 4, 128, 128}, {4, 20, 64, 96}, {1, 3, 128, 40}, {2, 2, 64, 8}, {1, 2, 96, 112}};
}

TEST(Decode, AgreesWithTheReference) {
  for (const Dims& dims : sizes()) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (DType state : {DType::kBF16, DType::kF32}) {
        Case c = decode_case(dims, dtype, state);
        expect_case(c, 2);
        c.states = verify::States::kInPlace;
        c.indices = verify::Indices::kPool32;
        expect_case(c);
        c.lengths = {1, 3, 1, 20, 0, 1};
        expect_case(c);
        c.states = verify::States::kInitialOnly;
        c.indices = verify::Indices::kNone;
        expect_case(c);
      }
    }
  }
}

TEST(Decode, ReadsAndWritesStatesOfTwoDtypes) {
  for (const Dims& dims : sizes()) {
    for (const auto& [from, to] :
         {std::pair(DType::kBF16, DType::kF32), std::pair(DType::kBF16, DType::kF16),
          std::pair(DType::kF32, DType::kBF16)}) {
      Case c = decode_case(dims, DType::kBF16, from);
      c.final_state = to;
      expect_case(c);
    }
  }
}

TEST(Decode, NothingAroundASequenceChangesABit) {
  for_each_kernel([](Context& context) {
    const auto bits = [&](const Case& one, int threads) {
      return bits_of(decoded(context, verify::make_delta_rule(one), threads));
    };
    std::vector<Dims> all = sizes();
    // Several q/k heads to a task; a last block of rows that is not whole.
    if (!quick()) all.insert(all.end(), {{8, 16, 64, 32}, {16, 48, 128, 16}, {1, 1, 128, 20}});
    for (const Dims& dims : all) {
      for (const auto& [tokens, state] :
           {std::pair(DType::kF32, DType::kBF16), std::pair(DType::kF32, DType::kF32),
            std::pair(DType::kBF16, DType::kBF16)}) {
        const Case c = decode_case(dims, tokens, state);
        const auto alone = bits(c, 1);
        expect_same(bits(c, 2), alone, c, context);
        expect_same(bits(c, 5), alone, c, context);
        Case in_place = c;
        in_place.states = verify::States::kInPlace;
        for (int threads : {1, 2, 5}) {
          expect_same(bits(in_place, threads), alone, in_place, context);
        }
        Case shifted = c;
        shifted.shift = 1;
        shifted.strides = verify::Strides::kPadded;
        expect_same(bits(shifted, 1), alone, shifted, context);
        Case last = c;
        last.lengths = {1};
        last.first = 2;
        expect_same(bits(last, 5), {alone[2]}, last, context);
      }
    }
  });
}

// Which NaN of two an instruction takes is by the order of its operands, which is the compiler's.
TEST(Decode, OfAKeyThatIsNotFiniteNothingChangesABitEither) {
  for_each_kernel([](Context& context) {
    for (int64_t K : {64, 128}) {
      for (const auto& [norm, dtype] :
           {std::pair(false, DType::kF32), std::pair(true, DType::kF32),
            std::pair(false, DType::kBF16), std::pair(true, DType::kBF16)}) {
        Case c = decode_case({1, 2, K, 96}, dtype, dtype);
        c.l2norm = norm;
        const auto bits = [&, norm = norm](verify::States states, int threads) {
          c.states = states;
          DeltaRuleData data = verify::make_delta_rule(c);
          if (norm) {
            data.k.set(5, std::numeric_limits<double>::infinity());
          } else {
            std::memset(data.k.element(5), 0xff, static_cast<size_t>(size_of(data.k.dtype())));
          }
          return bits_of(decoded(context, data, threads));
        };
        const auto separate = bits(verify::States::kSeparate, 1);
        for (int threads : {1, 2, 5}) {
          expect_same(bits(verify::States::kInPlace, threads), separate, c, context);
        }
      }
    }
  });
}

// The state after a token, and what the token gets, whether or not others follow in the call.
TEST(Decode, LaterTokensChangeNoBitOfTheFirst) {
  for_each_kernel([](Context& context) {
    for (const Dims& dims : sizes()) {
      for (StateLayout layout : {StateLayout::kVK, StateLayout::kKV}) {
        for (const auto& [tokens, from] :
             {std::pair(DType::kF32, DType::kBF16), std::pair(DType::kF32, DType::kF32),
              std::pair(DType::kBF16, DType::kBF16)}) {
          Case c = decode_case(dims, tokens, from);
          c.final_state = DType::kBF16;
          c.layout = layout;
          c.lengths = {3};
          c.packing = verify::Packing::kRows;
          c.indices = verify::Indices::kPerToken;
          SCOPED_TRACE(verify::repeat_line(c, context));
          const auto first = [&](int64_t length) {
            DeltaRuleData data = verify::make_delta_rule(c);
            RecurrentArgs args = data.recurrent_args();
            for (TensorView* view :
                 {&args.q, &args.k, &args.v, &args.out, &args.g, &args.a, &args.beta, &args.b}) {
              if (view->given()) view->shape[1] = length;
            }
            expect_ok(recurrent(context, args));
            Bits bits;
            append(data.out, 0, c.HV * c.V, &bits);
            const int64_t elements = c.HV * c.V * c.K;
            append(data.final_state, data.final_state_indices.get_int(0) * elements, elements,
                   &bits);
            return bits;
          };
          EXPECT_TRUE(first(1) == first(3));
        }
      }
    }
  });
}

// As Robustness.ANaNOfAnyBitsReachesTheState, of a state that is rounded as it is updated.
TEST(Decode, ANaNOfAnyBitsReachesABfloat16State) {
  for_each_kernel([](Context& context) {
    for (const Dims& dims : {Dims{1, 1, 128, 48}, Dims{1, 1, 96, 16}, Dims{1, 1, 40, 24}}) {
      for (const auto& [tokens, from, length] :
           {std::tuple(DType::kF32, DType::kBF16, 1), std::tuple(DType::kF32, DType::kF32, 1),
            std::tuple(DType::kF32, DType::kBF16, 2), std::tuple(DType::kBF16, DType::kBF16, 1)}) {
        for (Tensor DeltaRuleData::*input :
             {&DeltaRuleData::k, &DeltaRuleData::v, &DeltaRuleData::g, &DeltaRuleData::beta}) {
          Case c = decode_case(dims, tokens, from);
          c.final_state = DType::kBF16;
          c.gates = verify::Gates::kGiven;
          c.beta = verify::Beta::kGivenF32;
          c.l2norm = false;
          c.lengths = {length};
          DeltaRuleData data = verify::make_delta_rule(c);
          Tensor& spoiled = data.*input;
          std::memset(spoiled.element(0), 0xff, static_cast<size_t>(size_of(spoiled.dtype())));
          expect_ok(verify::call(context, data));
          // An element of v is a row's alone.
          const int64_t reached = input == &DeltaRuleData::v ? c.K : c.V * c.K;
          int64_t finite = 0;
          for (int64_t i = 0; i < reached; ++i) finite += std::isfinite(data.final_state.get(i));
          EXPECT_EQ(finite, 0) << verify::repeat_line(c, context);
        }
      }
    }
  });
}

// The norm of a row may be a factor of its sums: no step of that overflows where the result does
// not. Beyond 1e18 a norm is zero in float32, which is not the reference's.
TEST(Decode, LongAndShortKeysOfABfloat16State) {
  for (int64_t K : {64, 128}) {
    for (double length : {1e-30, 1e-4, 1e4, 1e15, 1e38}) {
      DeltaRuleData data =
          verify::make_delta_rule(decode_case({1, 2, K, 32}, DType::kBF16, DType::kBF16));
      for (int64_t i = 0; i < data.k.size(); ++i) {
        data.k.set(i, i % 3 == 0 ? -length : length);
        data.q.set(i, i % 5 == 0 ? -length : length);
      }
      if (length < 1e18) {
        expect(verify::Expected(data));
        continue;
      }
      for_each_kernel([&](Context& context) {
        const DeltaRuleData after = decoded(context, data, 1);
        for (const Tensor* tensor : {&after.final_state, &after.out}) {
          for (int64_t i = 0; i < tensor->size(); ++i) {
            ASSERT_TRUE(std::isfinite(tensor->get(i))) << i;
          }
        }
      });
    }
  }
}

}  // namespace
}  // namespace gdn::tests
