// The chunked stages of the reference against its recurrence: both inverses, both phase Bs, and
// every intermediate.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <string>
#include <vector>

#include "gdn/gdn.h"
#include "reference/chunked.h"
#include "reference/recurrent.h"
#include "reference/tasks.h"
#include "reference_testing.h"
#include "verify/run.h"

namespace gdn::reference {
namespace {

struct Agreement {
  Case c;
  int64_t chunk_size;
};

std::string name_of(const testing::TestParamInfo<Agreement>& info) {
  const Case& c = info.param.c;
  return std::to_string(info.index) + "_" + verify::name_of(c.input) + "_K" + std::to_string(c.K) +
         "_V" + std::to_string(c.V) + "_chunk" + std::to_string(info.param.chunk_size);
}

std::vector<Agreement> agreements() {
  std::vector<Agreement> all;
  for (int64_t chunk_size : {1, 2, 16, 64, 100, 128}) {
    // Lengths around the chunk, of none and of one token; head groups; K != V.
    for (Case c : {drawn_case({130, 0, 1, 64, 65, 17}, 1, 3, 16, 24),
                   drawn_case({63, 129}, 2, 4, 24, 8), drawn_case({300}, 1, 1, 128, 64)}) {
      all.push_back({c, chunk_size});
      c.gates = verify::Gates::kComputed;
      c.beta = verify::Beta::kFromB;
      c.l2norm = true;
      c.neg_eigval = true;
      c.scale = 2;
      all.push_back({c, chunk_size});
    }
    for (int input = 1; input < verify::kInputCount; ++input) {
      all.push_back({drawn_case({150, 64}, 1, 2, 16, 24, static_cast<Input>(input)), chunk_size});
    }
  }
  return all;
}

// Every sequence and value head of a case, with the tokens of the recurrence beside the stages.
class Stages : public testing::TestWithParam<Agreement> {
 protected:
  Stages()
      : drawn_(GetParam().c),
        C_(GetParam().chunk_size),
        problem_(drawn_.problem),
        expected_(recurrent(problem_, {.token_states = true})) {}

  template <class Body>
  void for_each_head(const Body& body) {
    for (int64_t n = 0; n < problem_.sequences.count; ++n) {
      for (int64_t head = 0; head < problem_.shape.value_heads; ++head) {
        SCOPED_TRACE("sequence " + std::to_string(n) + ", value head " + std::to_string(head));
        body(n, head);
      }
    }
  }
  // Of a tensor [rows,HV,width], the rows of a sequence and head.
  Vector rows(const Vector& x, int64_t n, int64_t head, int64_t width) const {
    const Sequence s = problem_.sequences.at(n);
    const int64_t first = first_row(problem_.sequences, s);
    Vector y;
    for (int64_t t = 0; t < s.length; ++t) {
      const Vector row = part(x, ((first + t) * problem_.shape.value_heads + head) * width, width);
      y.insert(y.end(), row.begin(), row.end());
    }
    return y;
  }
  Vector expected_out(int64_t n, int64_t head) const {
    return rows(expected_.out, n, head, problem_.shape.V);
  }
  Vector initial_state(int64_t n, int64_t head) const {
    return preprocess(problem_, n, head, C_).state;
  }
  // The states before every chunk and after the last: [chunks + 1,V,K].
  Vector expected_states(int64_t n, int64_t head) const {
    const int64_t VK = problem_.shape.V * problem_.shape.K;
    const int64_t length = problem_.sequences.at(n).length;
    const Vector all = rows(expected_.token_states, n, head, VK);
    Vector states = initial_state(n, head);
    for (int64_t begin = 0; begin < length; begin += C_) {
      const Vector state = part(all, (std::min(begin + C_, length) - 1) * VK, VK);
      states.insert(states.end(), state.begin(), state.end());
    }
    return states;
  }
  // v_new of the recurrence, [T,V].
  Vector expected_v_new(int64_t n, int64_t head) const {
    const Sequence s = problem_.sequences.at(n);
    Scratch scratch(problem_.shape);
    Vector state = initial_state(n, head), all;
    for (int64_t t = 0; t < s.length; ++t) {
      load_token(problem_, s, t, head, &scratch.token);
      step(scratch.token, problem_.scale, state.data(), scratch.v_new.data(), scratch.out.data());
      all.insert(all.end(), scratch.v_new.begin(), scratch.v_new.end());
    }
    return all;
  }

  Drawn drawn_;
  int64_t C_;
  const DeltaRuleProblem& problem_;
  DeltaRuleResult expected_;
};

TEST_P(Stages, TimesItsInverseEveryLowerMatrixIsTheIdentity) {
  for_each_head([&](int64_t n, int64_t head) {
    const Preprocessed x = preprocess(problem_, n, head, C_);
    const PhaseA a = phase_a(x);
    for (int64_t chunk = 0; chunk < x.chunks; ++chunk) {
      const double* L = a.L.data() + chunk * C_ * C_;
      const double* T = a.T.data() + chunk * C_ * C_;
      double worst = 0;
      for (int64_t i = 0; i < C_; ++i) {
        for (int64_t j = 0; j < C_; ++j) {
          double sum = 0;
          for (int64_t m = 0; m < C_; ++m) sum += L[i * C_ + m] * T[m * C_ + j];
          worst = std::max(worst, std::fabs(sum - (i == j ? 1.0 : 0.0)));
          if (j > i) {
            ASSERT_EQ(T[i * C_ + j], 0.0);
          }
        }
      }
      EXPECT_LE(worst, kSameInDouble) << "chunk " << chunk;
    }
  });
}

TEST_P(Stages, LegacyPhaseBIsTheRecurrence) {
  for_each_head([&](int64_t n, int64_t head) {
    const Preprocessed x = preprocess(problem_, n, head, C_);
    const PhaseB b = phase_b_legacy(x, phase_a(x));
    EXPECT_TRUE(same(part(b.out, 0, x.length * x.V), expected_out(n, head)));
    EXPECT_TRUE(same(b.states, expected_states(n, head)));
    EXPECT_TRUE(same(part(b.v_new, 0, x.length * x.V), expected_v_new(n, head)));
    // Padding writes nothing.
    for (size_t i = static_cast<size_t>(x.length * x.V); i < b.v_new.size(); ++i) {
      EXPECT_EQ(b.v_new[i], 0.0);
    }
  });
}

TEST_P(Stages, OptimizedPhaseBIsTheRecurrence) {
  for_each_head([&](int64_t n, int64_t head) {
    const Preprocessed x = preprocess(problem_, n, head, C_);
    const PhaseBOptimized b = phase_b_optimized(x, phase_a(x));
    EXPECT_TRUE(same(part(b.out, 0, x.length * x.V), expected_out(n, head)));
    EXPECT_TRUE(same(b.states, expected_states(n, head)));
  });
}

TEST_P(Stages, NeumannInverseGivesTheRecurrence) {
  // On keys that are alike too: its intermediates explode, and later steps make up for it.
  for_each_head([&](int64_t n, int64_t head) {
    const Preprocessed x = preprocess(problem_, n, head, C_);
    const PhaseA a = phase_a(x, SolveMethod::kNeumann);
    EXPECT_TRUE(same(a.T, phase_a(x).T));
    const PhaseB b = phase_b_legacy(x, a);
    EXPECT_TRUE(same(part(b.out, 0, x.length * x.V), expected_out(n, head)));
    const PhaseBOptimized o = phase_b_optimized(x, a);
    EXPECT_TRUE(same(part(o.out, 0, x.length * x.V), expected_out(n, head)));
    EXPECT_TRUE(same(o.states, expected_states(n, head)));
  });
}

TEST_P(Stages, TogetherGiveTheResultOfTheRecurrenceWithEveryState) {
  const DeltaRuleResult result = chunked(problem_, C_, {.token_states = true});
  EXPECT_TRUE(same(result.out, expected_.out));
  EXPECT_TRUE(same(result.final_states, expected_.final_states));
  EXPECT_TRUE(same(result.token_states, expected_.token_states));
}

INSTANTIATE_TEST_SUITE_P(Chunked, Stages, testing::ValuesIn(agreements()), name_of);

TEST(Chunked, ChecksOutAtEveryCheckpointTheStateOfThatToken) {
  Case c = drawn_case({200, 0, 64, 63, 129}, 1, 2, 8, 16);
  c.checkpoint_every = 64;
  const Drawn drawn(c);
  const DeltaRuleResult expected = recurrent(drawn.problem, {.token_states = true});
  const int64_t width = c.HV * c.V * c.K;
  // Tokens 64, 128, 192 of the first sequence, 64 of the third, 64 and 128 of the last.
  Vector states;
  for (int64_t row : {63, 127, 191, 263, 390, 454}) {
    const Vector state = part(expected.token_states, row * width, width);
    states.insert(states.end(), state.begin(), state.end());
  }
  EXPECT_EQ(expected.checkpoints, states);
  for (int64_t chunk_size : {1, 48, 64}) {
    EXPECT_TRUE(same(chunked(drawn.problem, chunk_size).checkpoints, states)) << chunk_size;
  }
}

// Through the API: what it stores, of a call with states in every place.
TEST(Chunked, TheOperatorStoresWhatTheRecurrenceSaysAtAnyChunkSize) {
  Case c = drawn_case({130, 0, 1, 64, 17}, 1, 2, 16, 24);
  std::vector<Case> cases = {c};
  c.checkpoint_every = 64;
  c.indices = verify::Indices::kPool32;
  c.padding = verify::Padding::kNegative;
  c.states = verify::States::kInPlace;
  c.tail = 3;
  cases.push_back(c);
  c.checkpoint_every = 0;
  c.indices = verify::Indices::kPerToken;
  c.states = verify::States::kSeparate;
  c.state = c.final_state = DType::kBF16;
  c.layout = StateLayout::kKV;
  cases.push_back(c);
  c.indices = verify::Indices::kAccepted;
  c.states = verify::States::kInPlace;
  cases.push_back(c);
  for (Case each : cases) {
    for (int64_t chunk_size : {1, 48, 64, 200}) {
      each.chunk_size = chunk_size;
      Context context;
      context.kernel = "reference";
      const verify::Result result = verify::run(context, each);
      EXPECT_TRUE(result.ok()) << verify::describe(result, each, context);
    }
  }
}

TEST(Chunked, ANaNReachesNoEarlierTokenAndNoOtherHead) {
  const Case c = drawn_case({40, 20}, 1, 2, 8, 8);
  Drawn drawn(c);
  const DeltaRuleResult clean = chunked(drawn.problem, 16);
  for (verify::Tensor* tensor : {&drawn.data.v, &drawn.data.g, &drawn.data.beta}) {
    // Token 20, value head 1, all of its elements.
    const int64_t width = tensor == &drawn.data.v ? c.V : 1;
    const verify::Tensor before = tensor->clone();
    for (int64_t i = 0; i < width; ++i) tensor->set((20 * c.HV + 1) * width + i, kNaN);
    for (const DeltaRuleResult& result : {chunked(drawn.problem, 16), recurrent(drawn.problem)}) {
      for (int64_t row = 0; row < 60; ++row) {
        for (int64_t head = 0; head < c.HV; ++head) {
          const Vector out = part(result.out, (row * c.HV + head) * c.V, c.V);
          if (head == 1 && row >= 20 && row < 40) {
            for (double x : out) EXPECT_TRUE(std::isnan(x)) << row;
          } else {
            EXPECT_TRUE(same(out, part(clean.out, (row * c.HV + head) * c.V, c.V))) << row;
          }
        }
      }
    }
    for (int64_t i = 0; i < width; ++i) {
      tensor->copy_element((20 * c.HV + 1) * width + i, before, (20 * c.HV + 1) * width + i);
    }
  }
}

TEST(Oracle, GivesTheSameBitsOnAnyNumberOfThreads) {
  const Drawn drawn(drawn_case({70, 3, 1, 20}, 2, 4, 16, 8));
  const auto executor = make_thread_executor(3);
  const DeltaRuleResult alone = recurrent(drawn.problem);
  EXPECT_EQ(recurrent(drawn.problem, {.executor = executor.get()}).out, alone.out);
  EXPECT_EQ(chunked(drawn.problem, 16, {.executor = executor.get()}).out,
            chunked(drawn.problem, 16).out);
}

TEST(Oracle, AFailureInATaskComesOutInTheCaller) {
  const auto executor = make_thread_executor(2);
  for (Executor* e : {static_cast<Executor*>(nullptr), executor.get()}) {
    EXPECT_THROW(run_tasks(e, 10,
                           [](int64_t task, int) {
                             if (task == 3) throw std::bad_alloc();
                           }),
                 std::bad_alloc);
  }
}

}  // namespace
}  // namespace gdn::reference
