#include "check/check.h"
#include "check/delta_rule.h"
#include "check/slots.h"

namespace gdn {

Status check(const RecurrentArgs& args, DeltaRuleProblem* problem) {
  Check check(Op::kRecurrent);
  problem->shape.op = Op::kRecurrent;
  check_delta_rule(check, args, problem);
  check.overlaps();
  check_slots(check, *problem);
  return check.take();
}

}  // namespace gdn
