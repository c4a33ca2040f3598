// The draws of operators_test.cc cover what they claim to.
#include "pairs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>

#include "draws.h"
#include "verify/case.h"

namespace gdn::tests {
namespace {

class Pairs : public testing::TestWithParam<verify::Operator> {};

TEST_P(Pairs, EveryPossiblePairOfValuesOccurs) {
  const auto axes = axes_of(GetParam());
  const auto possible = possible_of(GetParam());
  const auto draws = draws_of(GetParam());
  for (const Draw& draw : draws) ASSERT_TRUE(possible(draw));
  for (size_t a = 0; a < axes.size(); ++a) {
    for (size_t b = a + 1; b < axes.size(); ++b) {
      for (int i = 0; i < axes[a].values; ++i) {
        for (int j = 0; j < axes[b].values; ++j) {
          Draw pair(axes.size(), kOpen);
          pair[a] = i;
          pair[b] = j;
          const bool occurs = std::any_of(draws.begin(), draws.end(), [&](const Draw& draw) {
            return draw[a] == i && draw[b] == j;
          });
          EXPECT_EQ(occurs, possible(pair))
              << axes[a].name << " " << i << " with " << axes[b].name << " " << j;
          // Only axes that contradict each other by their meaning may leave a pair out.
          Draw alone(axes.size(), kOpen);
          alone[b] = j;
          EXPECT_TRUE(occurs || !axes[a].free || !possible(alone))
              << axes[a].name << " " << i << " with " << axes[b].name << " " << j;
        }
      }
    }
  }
}

TEST_P(Pairs, EveryDrawIsAValidCaseThatItsLineRepeats) {
  uint64_t seed = 1;
  for (const Draw& draw : draws_of(GetParam())) {
    const verify::Case c = case_of(GetParam(), draw, seed++).c;
    const Status status = verify::valid(c);
    ASSERT_TRUE(status.ok()) << status.message() << ": " << to_string(c);
    verify::Case again;
    ASSERT_TRUE(verify::parse(to_string(c), &again).ok()) << to_string(c);
    EXPECT_EQ(again, c) << to_string(c);
  }
}

INSTANTIATE_TEST_SUITE_P(Operators, Pairs,
                         testing::Values(verify::Operator::kChunk, verify::Operator::kRecurrent,
                                         verify::Operator::kReplay),
                         [](const auto& p) { return verify::name_of(p.param); });

}  // namespace
}  // namespace gdn::tests
