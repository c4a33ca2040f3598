// The OpenMP executor, in a library of its own (CMake target gdn::openmp), so that the core needs
// no OpenMP runtime.
#pragma once

#include <memory>

#include "gdn/executor.h"

namespace gdn {

// Runs tasks in an OpenMP parallel loop; threads = 0 takes OpenMP's own default.
GDN_API std::unique_ptr<Executor> make_openmp_executor(int threads = 0);

}  // namespace gdn
