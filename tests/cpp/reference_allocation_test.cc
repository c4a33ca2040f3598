// Whatever allocation of a reference call fails: a Status, and not one element written.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>

#include "gdn/gdn.h"
#include "verify/case.h"
#include "verify/inputs.h"

namespace {
// Allocations of the whole program until one fails.
std::atomic<int64_t> until_failure{std::numeric_limits<int64_t>::max()};
}  // namespace

void* operator new(std::size_t size) {
  if (--until_failure == 0) throw std::bad_alloc();
  if (void* p = std::malloc(size > 0 ? size : 1)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace gdn::verify {
namespace {

bool unwritten(const Tensor& tensor) {
  for (int64_t i = 0; i < tensor.size(); ++i) {
    if (!tensor.unwritten(i)) return false;
  }
  return true;
}

// Lets the first allocation of the call fail, then the second, until none does.
template <class Call>
void expect_all_or_nothing(const DeltaRuleData& data, const Call& call) {
  for (int64_t nth = 1;; ++nth) {
    ASSERT_LT(nth, 1000);
    until_failure = nth;
    const Status status = call();
    const bool failed = until_failure <= 0;
    until_failure = std::numeric_limits<int64_t>::max();
    EXPECT_EQ(status.ok(), !failed) << nth;
    if (!failed) {
      EXPECT_GT(nth, 1) << "the call allocates nothing";
      EXPECT_FALSE(unwritten(data.out));
      return;
    }
    EXPECT_EQ(status.code(), StatusCode::kOutOfMemory) << nth;
    EXPECT_TRUE(unwritten(data.out)) << nth;
    EXPECT_TRUE(unwritten(data.final_state)) << nth;
    EXPECT_TRUE(unwritten(data.checkpoints)) << nth;
  }
}

TEST(Allocation, AFailedOneLeavesEveryTensorAsItWas) {
  const auto executor = make_thread_executor(2);
  for (Executor* e : {static_cast<Executor*>(nullptr), executor.get()}) {
    Context context;
    context.kernel = "reference";
    context.executor = e;
    Case c;
    c.lengths = {70, 3};
    c.K = c.V = 8;
    c.HV = 2;
    DeltaRuleData data = make_delta_rule(c);
    expect_all_or_nothing(data, [&, args = data.chunk_args()] { return chunk(context, args); });
    c.checkpoint_every = 64;
    data = make_delta_rule(c);
    expect_all_or_nothing(data, [&, args = data.chunk_args()] { return chunk(context, args); });
    c.checkpoint_every = 0;
    c.op = Operator::kRecurrent;
    data = make_delta_rule(c);
    expect_all_or_nothing(data,
                          [&, args = data.recurrent_args()] { return recurrent(context, args); });
  }
}

}  // namespace
}  // namespace gdn::verify
