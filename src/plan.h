#pragma once

#include "backend.h"

namespace gdn {

// The backend that will run a shape, and its plan. The message of a failure is whole.
Status make_plan(const Context& context, const Shape& shape, Plan* plan, const Backend** backend);

}  // namespace gdn
