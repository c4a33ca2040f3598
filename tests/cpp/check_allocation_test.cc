// The checks of a right call allocate nothing and take little time.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <numeric>

#include "check_support.h"

namespace {
std::atomic<int64_t> allocations{0};

// Not inlined, or GCC takes the free() in a delete for one that does not match its new.
[[gnu::noinline]] void release(void* p) noexcept { std::free(p); }
}  // namespace

// Counts the allocations of the whole program.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size > 0 ? size : 1);
}
void* operator new(std::size_t size) {
  if (void* p = ::operator new(size, std::nothrow)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { release(p); }
void operator delete(void* p, std::size_t) noexcept { release(p); }

namespace gdn {
namespace {

template <class Call>
int64_t allocations_of_check(const Call& call) {
  typename Operator<std::decay_t<decltype(call.args)>>::Problem problem;
  const int64_t before = allocations;
  const Status status = check(call.args, &problem);
  const int64_t after = allocations;
  EXPECT_TRUE(status.ok()) << status.message();
  return after - before;
}

TEST(CheckAllocation, RightCallsAllocateNothing) {
  ReplayVerifyCall replay;
  EXPECT_EQ(allocations_of_check(replay), 0);
  RecurrentCall decode;
  decode.compute_gates();
  decode.args.final_state = decode.args.initial_state;
  EXPECT_EQ(allocations_of_check(decode), 0);
  RecurrentCall speculative;
  speculative.speculative();
  EXPECT_EQ(allocations_of_check(speculative), 0);
}

template <class Args>
struct Call {
  Args args;
};

TEST(CheckAllocation, RightCallsOfTheLayersOtherOperatorsAllocateNothing) {
  Memory memory;
  const auto tensor = [&](std::initializer_list<int64_t> extents) {
    return memory.input(DType::kF32, extents);
  };
  Call<CausalConv1dArgs> convolution;
  convolution.args.x = tensor({2, 3, 6});
  convolution.args.y = tensor({2, 3, 6});
  convolution.args.weight = tensor({6, 4});
  convolution.args.initial_state = convolution.args.final_state = tensor({2, 6, 3});
  EXPECT_EQ(allocations_of_check(convolution), 0);
  Call<RmsNormGatedArgs> norm;
  norm.args.x = tensor({5, 6});
  norm.args.z = tensor({5, 6});
  norm.args.weight = tensor({6});
  norm.args.y = tensor({5, 6});
  EXPECT_EQ(allocations_of_check(norm), 0);
  Call<GatingArgs> gates;
  gates.args.a = tensor({2, 3, 4});
  gates.args.A_log = tensor({4});
  gates.args.g = tensor({2, 3, 4});
  EXPECT_EQ(allocations_of_check(gates), 0);
}

TEST(CheckAllocation, ALargeBatchAllocatesNothing) {
  constexpr int64_t N = 256;
  RecurrentCall call;
  call.tokens(N, 1);
  call.args.initial_state = call.args.final_state = call.state_in(N);
  std::vector<int64_t> slots(N);
  std::iota(slots.rbegin(), slots.rend(), 0);
  call.args.initial_state_indices = call.args.final_state_indices = TensorView(slots.data(), {N});
  EXPECT_EQ(allocations_of_check(call), 0);
}

}  // namespace
}  // namespace gdn
