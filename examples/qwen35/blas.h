// Matrix products through CBLAS, and the threads that share them.
#pragma once

#include <cstdint>

#include "gdn/context.h"
#include "weights.h"

namespace qwen35 {

using Values = std::vector<float>;  // a row-major tensor whose shape the code around it knows

// c = a b^T for a [m,k], b [n,k] and c [m,n]; ld* are floats from one row to the next.
void multiply_transposed(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
                         const float* b, int64_t ldb, float* c, int64_t ldc);
// c = a b for a [m,k], b [k,n] and c [m,n].
void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
              int64_t ldb, float* c, int64_t ldc);

// y = x W^T + bias for the rows of x.
Values apply(gdn::Context& context, const Linear& linear, const Values& x);

// The context's executor is the only pool of threads: BLAS itself is told to use none. So every
// product is cut in the same way whatever the number of threads, and so are its bits.
void keep_blas_on_one_thread();

// Calls body(i, worker) for i in [0,count) on the context's threads; on this one alone where
// `multiplications`, about how many there are in all, would not pay for waking the others. No two
// calls at the same time have the same worker, of which there are worker_count(). Bodies must not
// throw.
inline int worker_count(const gdn::Context& context) { return context.executor->max_workers(); }

template <class Body>
void parallel_for(gdn::Context& context, int64_t count, int64_t multiplications, const Body& body) {
  constexpr int64_t kWorthIt = 1 << 19;
  if (multiplications < kWorthIt) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  const auto task = [](void* closure, int64_t i, int worker) {
    (*static_cast<const Body*>(closure))(i, worker);
  };
  context.executor->run(count, task, const_cast<Body*>(&body));
}

}  // namespace qwen35
