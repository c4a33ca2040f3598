// The reference against arithmetic done by hand: that the definition is the right one, in cases
// small enough to follow, and the inverse, gates, norms and rounding by themselves.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "check/check.h"
#include "gdn/gdn.h"
#include "half.h"
#include "reference/chunked.h"
#include "reference/gating.h"
#include "reference/l2norm.h"
#include "reference/recurrent.h"
#include "reference/replay.h"
#include "reference/rounding.h"
#include "reference/solve_tril.h"
#include "reference_testing.h"

namespace gdn::reference {
namespace {

// ---- By hand
// -------------------------------------------------------------------------------------

// One sequence of one head, tokens given as floats; scale 1.
struct ByHand {
  std::vector<float> q, k, v, g, beta, initial;
  int64_t K, V;

  RecurrentArgs args() {
    const auto T = static_cast<int64_t>(g.size());
    out.assign(v.size(), std::nanf(""));
    final_state.assign(initial.size(), std::nanf(""));
    RecurrentArgs a(StateLayout::kVK);
    a.q = {q.data(), {1, T, 1, K}};
    a.k = {k.data(), {1, T, 1, K}};
    a.v = {v.data(), {1, T, 1, V}};
    a.g = {g.data(), {1, T, 1}};
    a.beta = {beta.data(), {1, T, 1}};
    a.out = {out.data(), {1, T, 1, V}};
    a.initial_state = {initial.data(), {1, 1, V, K}};
    a.final_state = {final_state.data(), {1, 1, V, K}};
    a.scale = 1.0;
    return a;
  }
  DeltaRuleProblem problem() {
    DeltaRuleProblem p;
    const Status status = check(args(), &p);
    EXPECT_TRUE(status.ok()) << status.message();
    return p;
  }
  std::vector<float> out{}, final_state{};
};

// K = V = 1:
//   S0 = 2
//   g = 0,    k = 1, v = 3, beta = .5, q = .5: v_new = .5 (3 - 2) = .5,  S = 2.5, o = 1.25
//   g = 0,    k = 2, v = 1, beta = 1,  q = 1:  v_new = 1 - 5 = -4,       S = -5.5, o = -5.5
//   g = -inf, k = 1, v = 4, beta = .5, q = 2:  S = 0, v_new = 2,         S = 2,    o = 4
//   g = 0,    k = 1, v = 9, beta = 0,  q = 1:  v_new = 0,                S = 2,    o = 2
ByHand one_by_one() {
  return {.q = {.5f, 1, 2, 1},
          .k = {1, 2, 1, 1},
          .v = {3, 1, 4, 9},
          .g = {0, 0, -std::numeric_limits<float>::infinity(), 0},
          .beta = {.5f, 1, .5f, 0},
          .initial = {2},
          .K = 1,
          .V = 1};
}

TEST(Recurrent, IsTheScalarRecurrenceWrittenOut) {
  ByHand x = one_by_one();
  const DeltaRuleResult result = recurrent(x.problem(), {.token_states = true});
  EXPECT_EQ(result.out, (Vector{1.25, -5.5, 4, 2}));
  EXPECT_EQ(result.token_states, (Vector{2.5, -5.5, 2, 2}));
  EXPECT_EQ(result.final_states, (Vector{2}));
}

TEST(Recurrent, StoresWhatItReturns) {
  ByHand x = one_by_one();
  Context context;
  context.kernel = "reference";
  const Status status = gdn::recurrent(context, x.args());
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(x.out, (std::vector<float>{1.25f, -5.5f, 4, 2}));
  EXPECT_EQ(x.final_state, (std::vector<float>{2}));
}

// K = V = 2, S0 = 0, g = 0. Rows of S are values, columns keys.
//   k = (1,0),   v = (1,2), beta = 1, q = (1,1): v_new = (1,2), S = [[1,0],[2,0]], o = (1,2)
//   k = (.5,.5), v = (1,1), beta = .5, q = (0,4):
//     S k = (.5,1), v_new = (.25,0), S = [[1.125,.125],[2,0]], o = (.5,0)
ByHand two_by_two() {
  return {.q = {1, 1, 0, 4},
          .k = {1, 0, .5f, .5f},
          .v = {1, 2, 1, 1},
          .g = {0, 0},
          .beta = {1, .5f},
          .initial = {0, 0, 0, 0},
          .K = 2,
          .V = 2};
}

TEST(Recurrent, IsTheMatrixRecurrenceWrittenOut) {
  ByHand x = two_by_two();
  const DeltaRuleResult result = recurrent(x.problem());
  EXPECT_EQ(result.out, (Vector{1, 2, .5, 0}));
  EXPECT_EQ(result.final_states, (Vector{1.125, .125, 2, 0}));
}

TEST(Recurrent, DecaysBeforeItReadsTheState) {
  ByHand x{.q = {1}, .k = {1}, .v = {3}, .g = {-2}, .beta = {.5f}, .initial = {4}, .K = 1, .V = 1};
  const double S = 4 * std::exp(-2.0), v_new = .5 * (3 - S);
  const DeltaRuleResult result = recurrent(x.problem());
  EXPECT_DOUBLE_EQ(result.final_states[0], S + v_new);
  EXPECT_DOUBLE_EQ(result.out[0], S + v_new);
}

TEST(Recurrent, ValueHeadsReadTheirGroupsKeysAndOthersStayApart) {
  // H = 2, HV = 4, K = V = 1, from zero: o = q k v, with q k of head h / 2.
  const float q[] = {1, 3}, k[] = {1, 2}, v[] = {1, 10, 100, 1000}, g[4] = {};
  float out[4];
  RecurrentArgs a(StateLayout::kVK);
  a.q = {q, {1, 1, 2, 1}};
  a.k = {k, {1, 1, 2, 1}};
  a.v = {v, {1, 1, 4, 1}};
  a.g = {g, {1, 1, 4}};
  a.out = {out, {1, 1, 4, 1}};
  DeltaRuleProblem problem;
  const Status status = check(a, &problem);
  ASSERT_TRUE(status.ok()) << status.message();
  const DeltaRuleResult result = recurrent(problem);
  EXPECT_EQ(result.out, (Vector{1, 10, 600, 6000}));
  EXPECT_EQ(result.final_states, (Vector{1, 10, 200, 2000}));
}

// The two tokens of two_by_two() as one chunk:
//   A_21 = .5 (k_2 . k_1) = .25          T = [[1,0],[-.25,1]]
//   u = T (v_1, .5 v_2) = (1,2), (.25,0) w = T (k_1, .5 k_2) = (1,0), (0,.25)
TEST(Chunked, StagesOfTwoTokensWrittenOut) {
  ByHand x = two_by_two();
  const Preprocessed p = preprocess(x.problem(), 0, 0, 2);
  const PhaseA a = phase_a(p);
  EXPECT_EQ(a.A, (Vector{0, 0, .25, 0}));
  EXPECT_EQ(a.L, (Vector{1, 0, .25, 1}));
  EXPECT_EQ(a.T, (Vector{1, 0, -.25, 1}));
  EXPECT_EQ(a.u, (Vector{1, 2, .25, 0}));
  EXPECT_EQ(a.w, (Vector{1, 0, 0, .25}));
  const PhaseB b = phase_b_legacy(p, a);
  EXPECT_EQ(b.v_new, (Vector{1, 2, .25, 0}));
  EXPECT_EQ(b.out, (Vector{1, 2, .5, 0}));
  EXPECT_EQ(b.states, (Vector{0, 0, 0, 0, 1.125, .125, 2, 0}));
  // q_i . k_j for j <= i; the state after the chunk is N (and N^T here, S0 being zero).
  const PhaseBOptimized o = phase_b_optimized(p, a);
  EXPECT_EQ(o.attention, (Vector{1, 0, 0, 2}));
  EXPECT_EQ(o.core, (Vector{1, 2, .5, 0}));
  EXPECT_EQ(o.carry, (Vector{0, 1, 0, 3.5}));       // Q - attention w
  EXPECT_EQ(o.M, (Vector{0, -.125, 0, 1 - .125}));  // I - K^T w
  EXPECT_EQ(o.N, (Vector{1.125, 2, .125, 0}));      // K^T u
  EXPECT_EQ(o.out, b.out);
  EXPECT_EQ(o.states, b.states);
}

TEST(Chunked, PartialChunksArePaddedSoThatNothingDecaysOrWritesPastTheEnd) {
  ByHand x = two_by_two();
  x.g = {-1, -2};
  const Preprocessed p = preprocess(x.problem(), 0, 0, 5);
  EXPECT_EQ(p.chunks, 1);
  EXPECT_EQ(p.g, (Vector{-1, -2, 0, 0, 0}));
  EXPECT_EQ(p.G, (Vector{-1, -3, -3, -3, -3}));
  EXPECT_EQ(p.beta, (Vector{1, .5, 0, 0, 0}));
  EXPECT_EQ(p.q, (Vector{1, 1, 0, 4, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(p.k, (Vector{1, 0, .5, .5, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(p.v, (Vector{1, 2, 1, 1, 0, 0, 0, 0, 0, 0}));
}

TEST(Chunked, CumulativeSumStartsAnewInEveryChunkAndClampsLargeDecays) {
  ByHand x = two_by_two();
  x.q.resize(8), x.k.resize(8), x.v.resize(8);
  x.beta.resize(4);
  x.g = {-1, -std::numeric_limits<float>::infinity(), -1e4f, std::nanf("")};
  const Preprocessed p = preprocess(x.problem(), 0, 0, 3);
  EXPECT_EQ(part(p.G, 0, 3), (Vector{-1, -151, -301}));
  for (int i = 3; i < 6; ++i) EXPECT_TRUE(std::isnan(p.G[static_cast<size_t>(i)]));
}

// ---- Replay
// ------------------------------------------------------------------------------------------

// Two verify calls, the second accepting `accepted` tokens of the first, against one recurrence
// over the accepted tokens and the second call's. States and records are float32, so the second
// call sees one rounding of each record.
TEST(Replay, VerifyThenAcceptThenVerifyIsTheRecurrenceOverAcceptedTokens) {
  constexpr int64_t T = 4, H = 1, HV = 2, K = 16, V = 8;
  Case first_case = drawn_case({T}, H, HV, K, V), second_case = first_case;
  first_case.l2norm = second_case.l2norm = true;
  second_case.seed = 4;
  verify::DeltaRuleData first = verify::make_delta_rule(first_case);
  verify::DeltaRuleData second = verify::make_delta_rule(second_case);

  for (int32_t accepted = 0; accepted <= T; ++accepted) {
    std::vector<float> state(HV * V * K), record_k(T * H * K), record_v(T * HV * V),
        record_g(T * HV), out(T * HV * V);
    for (size_t i = 0; i < state.size(); ++i) {
      state[i] = static_cast<float>(first.initial_state.get(static_cast<int64_t>(i)));
    }
    Vector start(state.begin(), state.end());
    const auto verify_call = [&](const verify::DeltaRuleData& x, int32_t count) {
      ReplayVerifyArgs a(StateLayout::kVK);
      a.q = x.q.view();
      a.k = x.k.view();
      a.v = x.v.view();
      a.g = x.g.view();
      a.beta = x.beta.view();
      a.cu_seqlens = x.cu_seqlens.view();
      a.out = {out.data(), {1, T, HV, V}};
      a.state = {state.data(), {1, HV, V, K}};
      a.num_accepted = {&count, {1}};
      a.record_k = {record_k.data(), {1, T, H, K}};
      a.record_v = {record_v.data(), {1, T, HV, V}};
      a.record_g = {record_g.data(), {1, T, HV}};
      a.use_qk_l2norm = true;
      Context context;
      context.kernel = "reference";
      const Status status = replay_verify(context, a);
      EXPECT_TRUE(status.ok()) << status.message();
    };
    verify_call(first, 0);
    EXPECT_EQ(Vector(state.begin(), state.end()), start) << "nothing was accepted yet";
    verify_call(second, accepted);

    // The recurrence, token by token.
    Drawn a(first_case), b(second_case);
    Scratch scratch(a.problem.shape);
    for (int64_t head = 0; head < HV; ++head) {
      Vector S = part(start, head * V * K, V * K);
      const auto run = [&](const DeltaRuleProblem& p, int64_t t) {
        load_token(p, p.sequences.at(0), t, head, &scratch.token);
        step(scratch.token, p.scale, S.data(), scratch.v_new.data(), scratch.out.data());
      };
      for (int64_t t = 0; t < accepted; ++t) run(a.problem, t);
      const Vector stored(state.begin() + head * V * K, state.begin() + (head + 1) * V * K);
      EXPECT_TRUE(same(stored, S, 1e-6)) << accepted;
      for (int64_t t = 0; t < T; ++t) {
        run(b.problem, t);
        const auto at = (t * HV + head) * V;
        EXPECT_TRUE(same(Vector(out.begin() + at, out.begin() + at + V), scratch.out, 1e-6));
        EXPECT_TRUE(
            same(Vector(record_v.begin() + at, record_v.begin() + at + V), scratch.v_new, 1e-6));
        EXPECT_TRUE(same(Vector(record_k.begin() + t * K, record_k.begin() + (t + 1) * K),
                         scratch.token.k, 1e-6));
        EXPECT_EQ(record_g[static_cast<size_t>(t * HV + head)], scratch.token.g);
      }
    }
  }
}

TEST(Replay, CommitWrittenOut) {
  // S = 2, records (k, v_new, g) = (3, 1, 0), (1, 4, -inf), (1, 1, 0): 2 + 3 = 5; 0 + 4 = 4; 5.
  const float expected[] = {2, 5, 4, 5};
  for (int32_t accepted = 0; accepted <= 3; ++accepted) {
    float state = 2;
    const float k[] = {3, 1, 1}, v[] = {1, 4, 1};
    const float g[] = {0, -std::numeric_limits<float>::infinity(), 0};
    ReplayCommitArgs a(StateLayout::kKV);
    a.state = {&state, {1, 1, 1, 1}};
    a.num_accepted = {&accepted, {1}};
    a.record_k = {k, {1, 3, 1, 1}};
    a.record_v = {v, {1, 3, 1, 1}};
    a.record_g = {g, {1, 3, 1}};
    Context context;
    context.kernel = "reference";
    const Status status = replay_commit(context, a);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(state, expected[accepted]);
  }
}

// ---- The inverse
// ---------------------------------------------------------------------------------------

// Entries of a size as phase A meets them.
Vector random_lower(int64_t n, uint64_t seed, double size) {
  verify::Random random(seed);
  Vector L(static_cast<size_t>(n * n), kNaN);  // only what lies below the diagonal may be read
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) L[static_cast<size_t>(i * n + j)] = size * random.normal();
  }
  return L;
}

TEST(SolveTril, OfThreeByThreeWrittenOut) {
  // L = [1; 2 1; 3 4 1]: X = [1; -2 1; 5 -4 1].
  const Vector L = {kNaN, kNaN, kNaN, 2, kNaN, kNaN, 3, 4, kNaN};
  const Vector expected = {1, 0, 0, -2, 1, 0, 5, -4, 1};
  Vector X(9, kNaN), buffer(9, kNaN);
  invert_exact(L.data(), 3, X.data());
  EXPECT_EQ(X, expected);
  EXPECT_EQ(residual(L.data(), X.data(), 3), 0.0);
  // Neumann: after one step X = I - strict_lower(L) and the error is its square, 2 * 4.
  invert_neumann(L.data(), 3, 1, X.data(), buffer.data());
  EXPECT_EQ(X, (Vector{1, 0, 0, -2, 1, 0, -3, -4, 1}));
  EXPECT_EQ(residual(L.data(), X.data(), 3), 8.0);
  invert_neumann(L.data(), 3, 2, X.data(), buffer.data());
  EXPECT_EQ(X, expected);
}

TEST(SolveTril, NeumannIsExactAfterLog2OfTheSizeSteps) {
  for (int64_t n : {1, 2, 3, 8, 16, 33, 64, 128}) {
    const Vector L = random_lower(n, static_cast<uint64_t>(n), 0.1);
    const auto size = static_cast<size_t>(n * n);
    Vector exact(size, kNaN), X(size, kNaN), buffer(size, kNaN);
    invert_exact(L.data(), n, exact.data());
    EXPECT_LE(residual(L.data(), exact.data(), n), 1e-13 * norm(exact));
    int64_t steps = 0;
    while ((int64_t{1} << steps) < n) ++steps;
    invert_neumann(L.data(), n, std::max<int64_t>(1, steps), X.data(), buffer.data());
    EXPECT_TRUE(same(X, exact)) << n;
    EXPECT_LE(residual(L.data(), X.data(), n), 1e-12 * norm(X)) << n;
    if (n == 8) {  // and no sooner
      invert_neumann(L.data(), n, steps - 1, X.data(), buffer.data());
      EXPECT_GT(residual(L.data(), X.data(), n), 1e-9);
    }
  }
}

TEST(SolveTril, Bf16StepsKeepBf16ValuesAndComeNearTheInverse) {
  constexpr int64_t n = 32;
  Vector L = random_lower(n, 5, 0.1);
  for (double& x : L) x = rounded(x, DType::kBF16);
  Vector exact(n * n, kNaN), X(n * n, kNaN), buffer(n * n, kNaN);
  invert_exact(L.data(), n, exact.data());
  invert_neumann_bf16(L.data(), n, 8, X.data(), buffer.data());
  for (double x : X) EXPECT_EQ(x, rounded(x, DType::kBF16));
  const double error = difference(X, exact) / norm(exact);
  EXPECT_LE(error, 1e-2);  // some ulps of bfloat16, 2^-9
  EXPECT_GE(error, 1e-4);  // it did round
}

TEST(SolveTril, ResidualShowsANaN) {
  Vector L = random_lower(4, 6, 0.1), X(16, kNaN);
  L[4] = kNaN;
  invert_exact(L.data(), 4, X.data());
  EXPECT_TRUE(std::isnan(residual(L.data(), X.data(), 4)));
}

// ---- Gates, norms, rounding
// ------------------------------------------------------------------------------

TEST(Gating, SoftplusAtItsEdges) {
  EXPECT_DOUBLE_EQ(softplus(0, 1, 20), std::log(2.0));
  EXPECT_DOUBLE_EQ(softplus(1, 1, 20), std::log(1 + std::exp(1.0)));
  EXPECT_DOUBLE_EQ(softplus(1, 2, 20), std::log(1 + std::exp(2.0)) / 2);
  EXPECT_DOUBLE_EQ(softplus(20, 1, 20), 20 + std::log1p(std::exp(-20.0)));  // at the threshold
  EXPECT_EQ(softplus(20.1, 1, 20), 20.1);                                   // past it
  EXPECT_EQ(softplus(10.1, 2, 20), 10.1);
  EXPECT_EQ(softplus(1000, 1, 1e9), 1000);  // no overflow below a high threshold
  EXPECT_DOUBLE_EQ(softplus(-50, 1, 20), std::exp(-50.0));
  EXPECT_EQ(softplus(-kInfinity, 1, 20), 0);
  EXPECT_EQ(softplus(kInfinity, 1, 20), kInfinity);
  EXPECT_TRUE(std::isnan(softplus(kNaN, 1, 20)));
}

TEST(Gating, WrittenOut) {
  const float A_log = std::log(3.0f), a = .25f, dt_bias = .5f, b = 2;
  float g = std::nanf(""), beta = std::nanf("");
  GatingArgs args;
  args.A_log = {&A_log, {1}};
  args.a = {&a, {1, 1, 1}};
  args.dt_bias = {&dt_bias, {1}};
  args.b = {&b, {1, 1, 1}};
  args.g = {&g, {1, 1, 1}};
  args.beta = {&beta, {1, 1, 1}};
  args.allow_neg_eigval = true;
  Context context;
  context.kernel = "reference";
  const Status status = gdn::gating(context, args);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_FLOAT_EQ(g, static_cast<float>(-3 * std::log(1 + std::exp(.75))));
  EXPECT_FLOAT_EQ(beta, static_cast<float>(2 / (1 + std::exp(-2.0))));
}

TEST(Gating, SigmoidAtItsEdges) {
  EXPECT_EQ(sigmoid(0), .5);
  EXPECT_EQ(sigmoid(-kInfinity), 0);
  EXPECT_EQ(sigmoid(kInfinity), 1);
  EXPECT_TRUE(std::isnan(sigmoid(kNaN)));
}

TEST(L2norm, WrittenOut) {
  Vector x = {3, 4}, y(2, kNaN);
  l2norm(x.data(), 2, 0, y.data());
  EXPECT_EQ(y, (Vector{.6, .8}));
  l2norm(x.data(), 2, 11, y.data());  // sqrt(25 + 11) = 6
  EXPECT_EQ(y, (Vector{.5, 4 / 6.0}));
  l2norm(x.data(), 2, 0, x.data());
  EXPECT_EQ(x, (Vector{.6, .8}));
  x = {0, 0};
  l2norm(x.data(), 2, 1e-6, x.data());
  EXPECT_EQ(x, (Vector{0, 0}));
}

// Between two neighbours of a 16-bit dtype lies a tie. A double just off the tie must go to the
// nearer neighbour, which by way of float32 it would not; the tie itself goes to the even one.
TEST(Rounding, IsOneRoundingForEveryPairOfNeighbours) {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    const auto value = [&](int bits) {
      const auto h = static_cast<uint16_t>(bits);
      return static_cast<double>(dtype == DType::kBF16 ? bf16_to_float(h) : f16_to_float(h));
    };
    const auto bits_of = [&](double x) {
      uint16_t h[2] = {0xffff, 0xffff};  // room for a float32, which the compiler cannot rule out
      store_rounded(reinterpret_cast<std::byte*>(h), dtype, x);
      return static_cast<int>(h[0]);
    };
    const int infinity = dtype == DType::kBF16 ? 0x7f80 : 0x7c00;
    for (int lower = 0; lower < infinity; ++lower) {
      const double a = value(lower);
      // The last one's upper neighbour is where infinity would be, were it finite.
      const double b = lower + 1 < infinity ? value(lower + 1) : 2 * a - value(lower - 1);
      const double tie = a + (b - a) / 2;
      const int even = lower % 2 == 0 ? lower : lower + 1;
      ASSERT_EQ(bits_of(a), lower);
      ASSERT_EQ(bits_of(tie), even) << lower;
      ASSERT_EQ(bits_of(std::nextafter(tie, 0)), lower) << lower;
      ASSERT_EQ(bits_of(std::nextafter(tie, kInfinity)), lower + 1) << lower;
      ASSERT_EQ(bits_of(-std::nextafter(tie, 0)), lower | 0x8000) << lower;
      ASSERT_EQ(bits_of(-std::nextafter(tie, kInfinity)), (lower + 1) | 0x8000) << lower;
    }
    EXPECT_EQ(bits_of(1e300), infinity);
    EXPECT_EQ(bits_of(kInfinity), infinity);
    EXPECT_EQ(bits_of(1e-300), 0);
    EXPECT_TRUE(std::isnan(value(bits_of(kNaN))));
    EXPECT_EQ(rounded(1 + 0x1p-30, dtype), 1.0);
  }
  EXPECT_EQ(rounded(1 + 0x1p-30, DType::kF32), 1.0);
}

}  // namespace
}  // namespace gdn::reference
