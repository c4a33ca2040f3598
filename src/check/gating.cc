#include "check/check.h"
namespace gdn {
Status check(const GatingArgs&, GatingProblem*) { return {}; }
}  // namespace gdn
