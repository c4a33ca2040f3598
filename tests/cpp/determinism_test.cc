// The bits of a sequence's output and state depend on that sequence's inputs, its initial state and
// the options of the call: not on threads, batch, position in the pack, slot or alignment. One test
// a sentence.
#include <gtest/gtest.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bits.h"
#include "gdn/ops.h"
#include "gdn/plan.h"
#include "kernels_under_test.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::DeltaRuleData;
using verify::Operator;
using verify::Tensor;

DeltaRuleData run_case(Context& context, const Case& c) {
  DeltaRuleData data = verify::make_delta_rule(c);
  const Status status = verify::call(context, data);
  EXPECT_TRUE(status.ok()) << status.message();
  return data;
}

std::vector<Bits> bits_of_case(Context& context, const Case& c, int threads = 1) {
  Context own = context;
  own.executor = executor_of(threads);
  return bits_of(run_case(own, c));
}

struct Dims {
  int64_t H, HV, K, V;
};

// Shapes that take different ways through the kernels.
std::vector<Case> shapes(Operator op) {
  std::vector<Case> cases;
  const auto add = [&](const Dims& dims, DType dtype, StateLayout layout) {
    Case c;
    c.op = op;
    c.H = dims.H;
    c.HV = dims.HV;
    c.K = dims.K;
    c.V = dims.V;
    c.dtype = dtype;
    c.layout = layout;
    c.lengths = {100, 64, 37, 1, 150};
    c.seed = 40 + cases.size();
    if (cases.size() % 2 == 0) {
      c.gates = verify::Gates::kComputed;
      c.beta = verify::Beta::kFromB;
      c.l2norm = true;
    }
    cases.push_back(c);
  };
  if (quick()) {
    add({1, 2, 32, 40}, DType::kF32, StateLayout::kVK);
    add({1, 2, 32, 40}, DType::kBF16, StateLayout::kKV);
    return cases;
  }
  for (const Dims& dims : {Dims{2, 4, 128, 128}, Dims{1, 3, 64, 96}, Dims{1, 1, 200, 256}}) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      add(dims, dtype, StateLayout::kVK);
      add(dims, dtype, StateLayout::kKV);
    }
    add(dims, DType::kF16, StateLayout::kVK);
  }
  return cases;
}

class Determinism : public testing::TestWithParam<Operator> {
 protected:
  // body(context, case) for every kernel and shape.
  template <class Body>
  void for_each(const Body& body) {
    for_each_kernel([&](Context& context) {
      for (const Case& c : shapes(GetParam())) {
        SCOPED_TRACE(verify::repeat_line(c, context));
        body(context, c);
      }
    });
  }
};

TEST_P(Determinism, ThreadsChangeNoBit) {
  for_each([](Context& context, const Case& c) {
    const auto alone = bits_of_case(context, c, 1);
    expect_same(bits_of_case(context, c, 2), alone, c, context);
    expect_same(bits_of_case(context, c, 5), alone, c, context);
    // One sequence, which many threads share by its columns of V.
    Case single = c;
    single.lengths = {100};
    const auto one = bits_of_case(context, single, 1);
    expect_same(bits_of_case(context, single, 2), one, single, context);
    expect_same(bits_of_case(context, single, 5), one, single, context);
    expect_same({one[0]}, {alone[0]}, single, context);
  });
}

TEST_P(Determinism, NeighboursAndPositionInThePackChangeNoBit) {
  for_each([](Context& context, const Case& c) {
    const auto together = bits_of_case(context, c);
    for (int64_t n = 0; n < c.sequences(); ++n) {
      Case alone = c;
      alone.lengths = {c.lengths[static_cast<size_t>(n)]};
      alone.first = n;
      expect_same(bits_of_case(context, alone), {together[static_cast<size_t>(n)]}, alone, context);
    }
    Case more = c;  // others after it
    for (int i = 0; i < 4; ++i) more.lengths.push_back(20 * i);
    auto among_more = bits_of_case(context, more);
    among_more.resize(together.size());
    expect_same(among_more, together, more, context);
  });
}

TEST_P(Determinism, PackingAndRowsOfABatchGiveTheSameBits) {
  for_each([](Context& context, const Case& c) {
    Case packed = c;
    packed.lengths = {70, 70, 70};
    packed.tail = 5;
    Case rows = packed;
    rows.packing = verify::Packing::kRows;
    rows.tail = 0;
    expect_same(bits_of_case(context, rows), bits_of_case(context, packed), rows, context);
  });
}

TEST_P(Determinism, SlotsChangeNoBit) {
  for_each([](Context& context, const Case& c) {
    const auto in_order = bits_of_case(context, c);
    Case pool = c;
    pool.indices = verify::Indices::kPool32;
    expect_same(bits_of_case(context, pool), in_order, pool, context);
    pool.indices = verify::Indices::kPool64;
    pool.states = verify::States::kInPlace;
    expect_same(bits_of_case(context, pool), in_order, pool, context);
  });
}

TEST_P(Determinism, AlignmentAndStridesChangeNoBit) {
  for_each([](Context& context, const Case& c) {
    const auto aligned = bits_of_case(context, c);
    Case other = c;
    for (int64_t shift : {1, 2, 5, 16}) {
      other.shift = shift;
      expect_same(bits_of_case(context, other), aligned, other, context);
    }
    other.strides = verify::Strides::kPadded;
    expect_same(bits_of_case(context, other), aligned, other, context);
    other.strides = verify::Strides::kFused;
    expect_same(bits_of_case(context, other), aligned, other, context);
  });
}

// Tokens [begin, end) of a tensor of tokens of one sequence, in place.
TensorView tokens(TensorView view, int64_t begin, int64_t end) {
  if (!view.given()) return view;
  view.data = static_cast<std::byte*>(view.data) + begin * view.strides[1] * size_of(view.dtype);
  view.shape[1] = end - begin;
  return view;
}

template <class Args>
Args part_of(Args args, int64_t begin, int64_t end) {
  for (TensorView* view :
       {&args.q, &args.k, &args.v, &args.out, &args.g, &args.a, &args.beta, &args.b}) {
    *view = tokens(*view, begin, end);
  }
  return args;
}

// One sequence of c in calls of the tokens between the cuts, the state going through final_state.
template <class Args>
std::vector<Bits> bits_in_parts(Context& context, const Case& c, const std::vector<int64_t>& cuts,
                                Args (DeltaRuleData::*args_of)() const,
                                Status (*op)(Context&, const Args&)) {
  DeltaRuleData data = verify::make_delta_rule(c);
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    Args args = part_of((data.*args_of)(), cuts[i], cuts[i + 1]);
    if (i > 0) args.initial_state = args.final_state;
    const Status status = op(context, args);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return bits_of(data);
}

Case one_sequence(Case c, int64_t length) {
  c.lengths = {length};
  c.packing = verify::Packing::kRows;
  return c;
}

// The reference keeps a call's running state in double, so that a cut rounds it, and its states
// inside a chunk come by another way than its last one.
bool is_reference(const Context& context) { return std::string(context.kernel) == "reference"; }

TEST(DeterminismOfParts, PrefillCutAtMultiplesOf64GivesTheBitsOfTheUncutCall) {
  for_each_kernel([](Context& context) {
    if (is_reference(context)) return;
    for (const Case& shape : shapes(Operator::kChunk)) {
      const Case c = one_sequence(shape, 300);
      SCOPED_TRACE(verify::repeat_line(c, context));
      const auto uncut = bits_of_case(context, c);
      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>{0, 64, 300}, {0, 256, 300}, {0, 64, 128, 192, 256, 300}}) {
        expect_same(bits_in_parts(context, c, cuts, &DeltaRuleData::chunk_args, &chunk), uncut, c,
                    context);
      }
    }
  });
}

// Large outputs go past the caches where their alignment allows it: of the two calls only the
// first.
TEST(DeterminismOfParts, HowALargeOutputIsStoredChangesNoBit) {
  if (quick()) GTEST_SKIP() << "takes seconds under a sanitizer";
  for_each_kernel([](Context& context) {
    if (is_reference(context)) return;
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      Case c;
      c.op = Operator::kChunk;
      c.H = 2;
      c.HV = 8;
      c.K = 8;
      c.V = 256;
      c.dtype = dtype;
      c = one_sequence(c, dtype == DType::kF32 ? 2100 : 4200);  // 16 MiB and more
      Case unaligned = c;
      unaligned.shift = 1;
      expect_same(bits_of_case(context, unaligned), bits_of_case(context, c), c, context);
    }
  });
}

TEST(DeterminismOfParts, CheckpointsAreTheStatesOfTheCallThatEndsThere) {
  for_each_kernel([](Context& context) {
    if (is_reference(context)) return;
    for (const Case& shape : shapes(Operator::kChunk)) {
      Case c = one_sequence(shape, 200);
      c.checkpoint_every = 64;
      SCOPED_TRACE(verify::repeat_line(c, context));
      const DeltaRuleData data = run_case(context, c);
      const int64_t elements = c.HV * c.V * c.K;
      for (int64_t j = 0; j < 3; ++j) {
        const DeltaRuleData cut = run_case(context, one_sequence(shape, 64 * (j + 1)));
        Bits checkpoint, state;
        append(data.checkpoints, j * elements, elements, &checkpoint);
        append(cut.final_state, 0, elements, &state);
        EXPECT_TRUE(checkpoint == state) << "checkpoint " << j;
      }
    }
  });
}

TEST(DeterminismOfParts, RecurrentOverTTokensGivesTheBitsOfTCalls) {
  for_each_kernel([](Context& context) {
    if (is_reference(context)) return;
    for (const Case& shape : shapes(Operator::kRecurrent)) {
      const Case c = one_sequence(shape, 19);
      SCOPED_TRACE(verify::repeat_line(c, context));
      std::vector<int64_t> cuts;
      for (int64_t t = 0; t <= 19; ++t) cuts.push_back(t);
      const auto whole = bits_of_case(context, c);
      expect_same(bits_in_parts(context, c, cuts, &DeltaRuleData::recurrent_args, &recurrent),
                  whole, c, context);
      expect_same(
          bits_in_parts(context, c, {0, 3, 8, 19}, &DeltaRuleData::recurrent_args, &recurrent),
          whole, c, context);
    }
  });
}

// States and values among the denormals of float32, and decays that lead there.
DeltaRuleData denormal_data(const Case& c) {
  DeltaRuleData data = verify::make_delta_rule(c);
  for (Tensor* tensor : {&data.initial_state, &data.v}) {
    for (int64_t i = 0; i < tensor->size(); ++i) {
      if (i % 3 != 0) tensor->set(i, tensor->get(i) * 1e-38);
    }
  }
  return data;
}

#if defined(__x86_64__)
// The control bits of the floating-point mode; the other ones are flags that arithmetic raises.
constexpr unsigned kControlBits = 0xffc0;
constexpr unsigned kFlushAndZero = 0x8040;

TEST_P(Determinism, TheCallersDenormalModeDoesNotMatterAndIsRestored) {
  for_each([](Context& context, const Case& shape) {
    if (shape.dtype != DType::kF32) return;
    Case c = shape;
    c.lengths = {70, 3};
    for (int threads : {1, 2}) {
      context.executor = executor_of(threads);
      const unsigned mode = _mm_getcsr();
      const DeltaRuleData kept = denormal_data(c), flushed = denormal_data(c);
      expect_ok(verify::call(context, kept));
      EXPECT_EQ(_mm_getcsr() & kControlBits, mode & kControlBits);
      _mm_setcsr(mode | kFlushAndZero);
      const Status status = verify::call(context, flushed);
      const unsigned after = _mm_getcsr();
      _mm_setcsr(mode);
      expect_ok(status);
      EXPECT_EQ(after & kControlBits, (mode | kFlushAndZero) & kControlBits);
      expect_same(bits_of(flushed), bits_of(kept), c, context);
    }
  });
}
#endif

INSTANTIATE_TEST_SUITE_P(Operators, Determinism,
                         testing::Values(Operator::kChunk, Operator::kRecurrent),
                         [](const auto& p) { return verify::name_of(p.param); });

// Kernel, chunk and compute are functions of the operator, the dims and the dtypes.
TEST(Plans, DoNotDependOnTheLengthsOrTheThreads) {
  for_each_kernel([](Context& context) {
    for (Op op : {Op::kChunk, Op::kRecurrent}) {
      for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        Shape shape;
        shape.op = op;
        shape.dtype = dtype;
        shape.heads = 2;
        shape.value_heads = 4;
        Plan first;
        expect_ok(plan(context, shape, &first));
        for (int64_t T : {1, 2, 64, 5000}) {
          for (int64_t N : {1, 3, 64}) {
            for (int threads : {1, 5}) {
              shape.sequences = N;
              shape.tokens = N * T;
              shape.max_length = T;
              Context own = context;
              own.executor = executor_of(threads);
              Plan other;
              expect_ok(plan(own, shape, &other));
              EXPECT_EQ(other.kernel, first.kernel);
              EXPECT_EQ(other.chunk, first.chunk);
              EXPECT_EQ(other.compute, first.compute);
            }
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace gdn::tests
