// Each delta-rule operator against the double reference, on every kernel, over draws in which every
// pair of values of two axes occurs (draws.h).
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <string>
#include <vector>

#include "draws.h"
#include "kernels_under_test.h"
#include "verify/case.h"

namespace gdn::tests {
namespace {

// Cases of which the quick subset takes the cheap ones.
constexpr int64_t kQuickCost = 150'000;

std::vector<DrawnCase> cases_of(verify::Operator op) {
  std::vector<DrawnCase> cases;
  uint64_t seed = 1;
  for (const Draw& draw : draws_of(op)) {
    DrawnCase drawn = case_of(op, draw, seed++);
    const verify::Case& c = drawn.c;
    const int64_t cost = (c.tokens() + c.sequences()) * c.HV * c.K * c.V;
    if (!quick() || cost <= kQuickCost) cases.push_back(std::move(drawn));
  }
  return cases;
}

class Operators : public testing::TestWithParam<DrawnCase> {};

TEST_P(Operators, AgreeWithTheReference) { expect_case(GetParam().c, GetParam().threads); }

std::string name(const testing::TestParamInfo<DrawnCase>& info) {
  return std::to_string(info.param.c.seed);
}
INSTANTIATE_TEST_SUITE_P(Chunk, Operators, testing::ValuesIn(cases_of(verify::Operator::kChunk)),
                         name);
INSTANTIATE_TEST_SUITE_P(Recurrent, Operators,
                         testing::ValuesIn(cases_of(verify::Operator::kRecurrent)), name);
INSTANTIATE_TEST_SUITE_P(Replay, Operators, testing::ValuesIn(cases_of(verify::Operator::kReplay)),
                         name);

// Runs the line that a failure printed: GDN_CASE="op=chunk ...", GDN_KERNEL=avx2, GDN_THREADS=2.
TEST(Case, FromTheEnvironment) {
  const char* line = std::getenv("GDN_CASE");
  if (line == nullptr) GTEST_SKIP() << "GDN_CASE is not set";
  verify::Case c;
  const Status status = verify::parse(line, &c);
  ASSERT_TRUE(status.ok()) << status.message();
  const char* threads = std::getenv("GDN_THREADS");
  expect_case(c, threads == nullptr ? 1 : std::atoi(threads));
}

}  // namespace
}  // namespace gdn::tests
