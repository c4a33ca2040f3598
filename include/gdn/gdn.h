// The whole C++ API of libgdn.
#pragma once

#include "gdn/context.h"
#include "gdn/executor.h"
#include "gdn/ops.h"
#include "gdn/plan.h"
#include "gdn/status.h"
#include "gdn/tensor.h"
#include "gdn/version.h"
