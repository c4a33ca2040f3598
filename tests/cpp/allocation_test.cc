// An allocation that fails is a Status, wherever it happens, and nothing is written. A program of
// its own, for its operator new.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "gdn/ops.h"
#include "gdn/plan.h"
#include "kernels_under_test.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/run.h"

namespace {

// Allocations until one fails; negative: none does.
std::atomic<int64_t> countdown{-1};
std::atomic<bool> all_after{false};  // and whether all that follow do, too

bool fails() {
  if (countdown < 0) return false;
  if (countdown > 0) {
    --countdown;
    return false;
  }
  if (!all_after) countdown = -1;
  return true;
}

void* allocate(std::size_t bytes, std::size_t alignment) noexcept {
  if (fails()) return nullptr;
  void* p = nullptr;
  return posix_memalign(&p, alignment < sizeof(void*) ? sizeof(void*) : alignment,
                        bytes > 0 ? bytes : 1) == 0
             ? p
             : nullptr;
}

void* allocate_or_throw(std::size_t bytes, std::size_t alignment) {
  if (void* p = allocate(bytes, alignment)) return p;
  throw std::bad_alloc();
}

// Not inlined, or GCC takes the free() in a delete for one that does not match its new.
[[gnu::noinline]] void release(void* p) noexcept { std::free(p); }

}  // namespace

void* operator new(std::size_t bytes) { return allocate_or_throw(bytes, sizeof(void*)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate_or_throw(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return allocate(bytes, sizeof(void*));
}
void* operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* p) noexcept { release(p); }
void operator delete(void* p, std::size_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { release(p); }

namespace gdn::tests {
namespace {

using verify::Case;
using verify::Operator;
using verify::Tensor;

// Calls call() with the first allocation failing, then the second, ... until it needs no more;
// before each call, `reset` fills the outputs; afterwards `untouched` says whether they stayed so.
template <class Call, class Reset, class Untouched>
void expect_survives(const Call& call, const Reset& reset, const Untouched& untouched) {
  constexpr int64_t kEnough = 10000;
  for (bool every : {false, true}) {
    for (int64_t n = 0; n < kEnough; ++n) {
      reset();
      all_after = every;
      countdown = n;
      const Status status = call();
      const bool reached = countdown < 0 || (every && countdown == 0);
      countdown = -1;
      if (status.ok()) break;
      ASSERT_TRUE(reached) << status.message();
      ASSERT_EQ(status.code(), StatusCode::kOutOfMemory) << status.message();
      ASSERT_TRUE(untouched()) << "allocation " << n << " failed and outputs were written";
      ASSERT_LT(n + 1, kEnough);
    }
  }
}

bool all_unwritten(const Tensor& tensor) {
  for (int64_t i = 0; i < tensor.size(); ++i) {
    if (!tensor.unwritten(i)) return false;
  }
  return true;
}

void fill_nan(std::vector<Tensor> tensors) {
  for (Tensor& tensor : tensors) tensor.buffer().fill_nan();
}

class Allocation : public testing::TestWithParam<Operator> {};

TEST_P(Allocation, FailureIsAStatusAndWritesNothing) {
  Case c;
  c.op = GetParam();
  c.lengths = {33, 2};
  c.H = 1;
  c.HV = 2;
  c.indices = verify::Indices::kPool32;
  c.has_initial = true;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    c.dtype = dtype;
    for_each_kernel([&](Context& context) {
      for (int threads : {1, 3}) {
        context.executor = executor_of(threads);
        const verify::DeltaRuleData data = verify::make_delta_rule(c);
        const auto chunk_args = data.chunk_args();
        const auto recurrent_args = data.recurrent_args();
        expect_survives(
            [&] {
              return c.op == Operator::kChunk ? chunk(context, chunk_args)
                                              : recurrent(context, recurrent_args);
            },
            [&] {
              fill_nan({data.out, data.final_state});
            },
            [&] { return all_unwritten(data.out) && all_unwritten(data.final_state); });
        EXPECT_FALSE(all_unwritten(data.out));
      }
    });
  }
}
INSTANTIATE_TEST_SUITE_P(Operators, Allocation,
                         testing::Values(Operator::kChunk, Operator::kRecurrent),
                         [](const auto& p) { return verify::name_of(p.param); });

TEST(AllocationOfReplay, FailureIsAStatusAndWritesNothing) {
  Case c;
  c.op = Operator::kReplay;
  c.lengths = {5, 2};
  c.states = verify::States::kInPlace;
  for_each_kernel([&](Context& context) {
    verify::ReplayData data = verify::make_replay(c);
    std::vector<std::pair<Tensor*, Tensor>> kept;  // what is updated, and how it was
    for (Tensor* tensor : {&data.state, &data.record_k, &data.record_v, &data.record_g}) {
      kept.emplace_back(tensor, tensor->clone());
    }
    const auto verify_args = data.verify_args();
    const auto commit_args = data.commit_args();
    const auto reset = [&] {
      fill_nan({data.out});
      for (const auto& [tensor, before] : kept) {
        for (int64_t i = 0; i < before.size(); ++i) tensor->copy_element(i, before, i);
      }
    };
    const auto as_before = [&] {
      for (const auto& [tensor, before] : kept) {
        for (int64_t i = 0; i < before.size(); ++i) {
          if (!tensor->same_bits(i, before, i)) return false;
        }
      }
      return true;
    };
    expect_survives([&] { return replay_verify(context, verify_args); }, reset,
                    [&] { return as_before() && all_unwritten(data.out); });
    EXPECT_FALSE(all_unwritten(data.out));
    EXPECT_FALSE(as_before());
    expect_survives([&] { return replay_commit(context, commit_args); }, reset, as_before);
    EXPECT_FALSE(as_before());
  });
}

TEST(AllocationOfElementwise, FailureIsAStatusAndWritesNothing) {
  for_each_kernel([&](Context& context) {
    Tensor x(DType::kF32, {3, 33, 33}), y(DType::kF32, {3, 33, 33});
    for (int64_t i = 0; i < x.size(); ++i) x.set(i, .01);
    L2normArgs norm;
    norm.x = x.view();
    norm.y = y.view();
    const auto reset = [&] { fill_nan({y}); };
    const auto untouched = [&] { return all_unwritten(y); };
    expect_survives([&] { return l2norm(context, norm); }, reset, untouched);
    EXPECT_FALSE(all_unwritten(y));
    SolveTrilArgs solve;
    solve.lower = x.view();
    solve.inverse = y.view();
    expect_survives([&] { return solve_tril(context, solve); }, reset, untouched);
    EXPECT_FALSE(all_unwritten(y));
    Tensor A_log(DType::kF32, {33});
    for (int64_t h = 0; h < 33; ++h) A_log.set(h, 0);
    GatingArgs gates;
    gates.a = x.view();
    gates.A_log = A_log.view();
    gates.g = y.view();
    expect_survives([&] { return gating(context, gates); }, reset, untouched);
    EXPECT_FALSE(all_unwritten(y));
  });
}

TEST(AllocationOfLayer, FailureIsAStatusAndWritesNothing) {
  for_each_kernel([&](Context& context) {
    for (int threads : {1, 3}) {
      context.executor = executor_of(threads);
      Case c;
      c.op = Operator::kCausalConv1d;
      c.lengths = {33, 2};
      c.indices = verify::Indices::kPool32;
      const verify::CausalConv1dData data = verify::make_causal_conv1d(c);
      const auto args = data.args();
      expect_survives([&] { return causal_conv1d(context, args); },
                      [&] {
                        fill_nan({data.y, data.final_state});
                      },
                      [&] { return all_unwritten(data.y) && all_unwritten(data.final_state); });
      EXPECT_FALSE(all_unwritten(data.y));

      Tensor x(DType::kF32, {300, 33}), weight(DType::kF32, {33}), y(DType::kF32, {300, 33});
      for (int64_t i = 0; i < x.size(); ++i) x.set(i, .01);
      for (int64_t i = 0; i < weight.size(); ++i) weight.set(i, 1);
      RmsNormGatedArgs norm;
      norm.x = norm.z = x.view();
      norm.weight = weight.view();
      norm.y = y.view();
      expect_survives([&] { return rms_norm_gated(context, norm); }, [&] { fill_nan({y}); },
                      [&] { return all_unwritten(y); });
      EXPECT_FALSE(all_unwritten(y));
    }
  });
}

TEST(AllocationOfPlans, FailureIsAStatus) {
  for_each_kernel([&](Context& context) {
    const verify::DeltaRuleData data = verify::make_delta_rule(Case());
    const auto args = data.chunk_args();
    Plan result;
    expect_survives([&] { return plan(context, args, &result); }, [] {}, [] { return true; });
  });
}

}  // namespace
}  // namespace gdn::tests
