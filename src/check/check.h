// From arguments to problems: everything that can be wrong with a call is found here, before
// anything is written, and nowhere else. A file per operator.
#pragma once

#include "gdn/ops.h"
#include "gdn/status.h"
#include "problem.h"

namespace gdn {

Status check(const ChunkArgs& args, DeltaRuleProblem* problem);
Status check(const RecurrentArgs& args, DeltaRuleProblem* problem);
Status check(const ReplayVerifyArgs& args, ReplayProblem* problem);
Status check(const ReplayCommitArgs& args, ReplayProblem* problem);
Status check(const GatingArgs& args, GatingProblem* problem);
Status check(const L2normArgs& args, L2normProblem* problem);
Status check(const SolveTrilArgs& args, SolveTrilProblem* problem);
Status check(const RmsNormGatedArgs& args, RmsNormGatedProblem* problem);
Status check(const CausalConv1dArgs& args, CausalConv1dProblem* problem);
Status check(const Shape& shape);  // of plan()

}  // namespace gdn
