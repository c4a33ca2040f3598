// The cases of operators_test.cc: seeded draws in which every value, and every pair of values of
// two axes, occurs.
#pragma once

#include <string>
#include <vector>

#include "pairs.h"
#include "verify/case.h"

namespace gdn::tests {

struct DrawnCase {
  verify::Case c;
  int threads = 1;
};

// The axes of an operator, by name and number of values.
struct Axis {
  std::string name;
  int values;
  bool free;  // not tied to other axes by verify::valid(): all its pairs with free axes occur
};
std::vector<Axis> axes_of(verify::Operator op);
Possible possible_of(verify::Operator op);
std::vector<Draw> draws_of(verify::Operator op);
DrawnCase case_of(verify::Operator op, const Draw& draw, uint64_t seed);

}  // namespace gdn::tests
