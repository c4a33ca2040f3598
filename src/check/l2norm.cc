#include "check/check.h"
namespace gdn {
Status check(const L2normArgs&, L2normProblem*) { return {}; }
}  // namespace gdn
