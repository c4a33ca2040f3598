// Plans of the CUDA backend, on any device and without one.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>

#include "cuda/chunk_sm90_segments.h"
#include "cuda/kernels.h"
#include "cuda/table.h"
#include "gdn/cuda.h"
#include "gdn/plan.h"

namespace gdn::tests {
namespace {

const cuda::Device kH100 = {9, 0, 132, 227 * 1024};
const cuda::Device kA10 = {8, 6, 72, 99 * 1024};
const cuda::Device kT4 = {7, 5, 40, 64 * 1024};

Shape prefill(DType dtype, int64_t N, int64_t T) {
  Shape shape;
  shape.device = DeviceType::kCUDA;
  shape.dtype = dtype;
  shape.sequences = N;
  shape.tokens = N * T;
  shape.max_length = T;
  shape.heads = 16;
  shape.value_heads = 32;
  return shape;
}

Plan plan_of(const Shape& shape, const cuda::Device& device) {
  Plan plan;
  const Status status = cuda::plan_for(shape, device, "", &plan);
  EXPECT_TRUE(status.ok()) << status.message();
  return plan;
}

TEST(CudaPlans, OldDevicesAreRefusedByName) {
  Plan plan;
  const Status status = cuda::plan_for(prefill(DType::kBF16, 1, 64), kT4, "", &plan);
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.message().find("7.5"), std::string::npos) << status.message();
}

TEST(CudaPlans, HopperHasItsOwnKernelAndCanBeToldOtherwise) {
  const Shape shape = prefill(DType::kBF16, 1, 8192);
  EXPECT_EQ(plan_of(shape, kH100).kernel, "sm90");
  EXPECT_EQ(plan_of(shape, kA10).kernel, "sm80");
  Plan plan;
  EXPECT_TRUE(cuda::plan_for(shape, kH100, "sm80", &plan).ok());
  EXPECT_EQ(plan.kernel, "sm80");
  const Status status = cuda::plan_for(shape, kA10, "sm90", &plan);
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.message().find("8.6, expected 9.0"), std::string::npos) << status.message();
}

TEST(CudaPlans, OperandsGoByDimensionsAndDtypesAlone) {
  for (const cuda::Device& device : {kH100, kA10}) {
    for (int64_t N : {1, 7}) {
      for (int64_t T : {1, 64, 5000}) {
        EXPECT_EQ(plan_of(prefill(DType::kBF16, N, T), device).compute, Compute::kBF16);
        EXPECT_EQ(plan_of(prefill(DType::kF16, N, T), device).compute, Compute::kBF16);
        EXPECT_EQ(plan_of(prefill(DType::kF32, N, T), device).compute, Compute::kF32);
        Shape odd = prefill(DType::kBF16, N, T);
        odd.K = 96;
        EXPECT_EQ(plan_of(odd, device).compute, Compute::kF32);
        Shape forced = prefill(DType::kBF16, N, T);
        forced.compute = Compute::kF32;
        EXPECT_EQ(plan_of(forced, device).compute, Compute::kF32);
      }
    }
  }
}

TEST(CudaPlans, TheWorkspaceHasRoomForAChunkOfEverySequence) {
  const Shape few = prefill(DType::kBF16, 1, 8192), many = prefill(DType::kBF16, 8192, 1);
  EXPECT_GT(plan_of(few, kH100).workspace_bytes_per_worker, 0u);
  EXPECT_GT(plan_of(many, kH100).workspace_bytes_per_worker,
            plan_of(few, kH100).workspace_bytes_per_worker);
  EXPECT_EQ(plan_of(prefill(DType::kF32, 1, 8192), kH100).workspace_bytes_per_worker, 0u);
}

Shape few_heads(int64_t N, int64_t T, ContextSplit split) {
  Shape shape = prefill(DType::kBF16, N, T);
  shape.heads = 2;
  shape.value_heads = 8;
  shape.context_split = split;
  return shape;
}

TEST(CudaPlans, LongSequencesOfFewHeadsAreSplit) {
  const Plan split = plan_of(few_heads(1, 8192, ContextSplit::kAuto), kH100);
  EXPECT_GT(split.segment_tokens, 0);
  EXPECT_GE(split.first_segment_tokens, split.segment_tokens);
  EXPECT_LE(split.first_segment_tokens + 2 * split.segment_tokens, 8192);
  EXPECT_EQ(split.segment_tokens % 64, 0);
  EXPECT_NE(to_string(split).find(", segments of "), std::string::npos) << to_string(split);
  const Plan off = plan_of(few_heads(1, 8192, ContextSplit::kOff), kH100);
  EXPECT_EQ(off.segment_tokens, 0);
  EXPECT_EQ(off.first_segment_tokens, 0);
  EXPECT_GT(split.workspace_bytes_per_worker, off.workspace_bytes_per_worker);
  // Short ones, those that keep the GPU at work by themselves, and other kernels.
  EXPECT_EQ(plan_of(few_heads(1, 1024, ContextSplit::kAuto), kH100).segment_tokens, 0);
  EXPECT_EQ(plan_of(few_heads(16, 8192, ContextSplit::kAuto), kH100).segment_tokens, 0);
  EXPECT_EQ(plan_of(few_heads(1, 8192, ContextSplit::kAuto), kA10).segment_tokens, 0);
}

TEST(CudaPlans, OfNoTokensNothingIsSplit) {
  for (ContextSplit split : {ContextSplit::kAuto, ContextSplit::kFixed, ContextSplit::kOff}) {
    EXPECT_EQ(plan_of(few_heads(3, 0, split), kH100).segment_tokens, 0);
    EXPECT_EQ(plan_of(few_heads(0, 0, split), kH100).segment_tokens, 0);
  }
}

TEST(CudaPlans, AFixedSplitGoesByTheSequenceAlone) {
  const int64_t tokens = plan_of(few_heads(1, 8192, ContextSplit::kFixed), kH100).segment_tokens;
  EXPECT_GT(tokens, 0);
  for (int64_t N : {1, 7, 300}) {
    for (int64_t T : {tokens + 1, int64_t{100000}}) {
      const Plan plan = plan_of(few_heads(N, T, ContextSplit::kFixed), kH100);
      EXPECT_EQ(plan.segment_tokens, tokens);
      EXPECT_EQ(plan.first_segment_tokens, tokens);
    }
    EXPECT_EQ(plan_of(few_heads(N, tokens, ContextSplit::kFixed), kH100).segment_tokens, 0);
  }
  Shape many_heads = prefill(DType::kBF16, 1, 8192);
  many_heads.context_split = ContextSplit::kFixed;
  EXPECT_EQ(plan_of(many_heads, kH100).segment_tokens, 0);
}

cuda::sm90::Beside beside_of(const Shape& shape, const cuda::Device& device) {
  return cuda::chunk_sm90_layout(shape, device, false).beside;
}

// One sequence of some length and few heads.
TEST(CudaPlans, TwoShortSegmentsAreWalkedOnce) {
  const Plan once = plan_of(few_heads(1, 2048, ContextSplit::kAuto), kH100);
  EXPECT_TRUE(once.segments_walked_once) << to_string(once);
  EXPECT_EQ(once.first_segment_tokens + once.segment_tokens, 2048);
  const int64_t before = cuda::sm90_record_bytes;  // of all chunks that may be but one
  cuda::sm90_record_bytes = 33 * (8 * 16256 + 2 * 16384);
  EXPECT_FALSE(plan_of(few_heads(1, 2048, ContextSplit::kAuto), kH100).segments_walked_once);
  cuda::sm90_record_bytes = before;
  EXPECT_NE(to_string(once).find("walked once"), std::string::npos);
  Shape half = few_heads(1, 2048, ContextSplit::kAuto);
  half.dtype = DType::kF16;
  for (const Shape& other :
       {few_heads(1, 512, ContextSplit::kAuto), few_heads(1, 100000, ContextSplit::kAuto),
        few_heads(2, 2048, ContextSplit::kAuto), few_heads(1, 4096, ContextSplit::kFixed), half}) {
    EXPECT_FALSE(plan_of(other, kH100).segments_walked_once);
  }
}

// Where fewer waves of them make up for their being longer, and value heads come in pairs.
TEST(CudaPlans, BlocksAreWideWhereHeadsFillTheGpu) {
  const auto shape_of = [](int64_t N, int64_t H, int64_t HV) {
    Shape shape = prefill(DType::kBF16, N, 1024);
    shape.context_split = ContextSplit::kOff;
    shape.heads = H;
    shape.value_heads = HV;
    return shape;
  };
  const auto wide = [](const Shape& shape) {
    return cuda::chunk_sm90_layout(shape, kH100, false).wide;
  };
  EXPECT_TRUE(wide(shape_of(8, 16, 32)));
  EXPECT_TRUE(wide(shape_of(8, 16, 64)));
  EXPECT_FALSE(wide(shape_of(1, 16, 32)));
  EXPECT_FALSE(wide(shape_of(6, 16, 32)));  // 192 value heads: three waves, or two that are longer
  EXPECT_FALSE(wide(shape_of(8, 32, 32)));
  EXPECT_FALSE(wide(shape_of(16, 16, 48)));
  Shape half = shape_of(8, 16, 32), narrow = half;
  half.dtype = DType::kF16;
  narrow.V = 64;
  EXPECT_FALSE(wide(half));
  EXPECT_FALSE(wide(narrow));
  // Of lengths that are not known, which may be uneven, with more heads.
  for (const auto& [N, expected] : {std::pair{4, false}, {8, true}}) {
    Shape packed = shape_of(N, 16, 32);
    EXPECT_TRUE(wide(packed));
    packed.max_length = packed.tokens;
    EXPECT_EQ(wide(packed), expected) << N;
  }
  const Plan plan = plan_of(shape_of(8, 16, 32), kH100);
  EXPECT_EQ(plan.parts, 1);
  EXPECT_EQ(plan.tasks, 8 * 32);
}

TEST(CudaPlans, ThePreparationRunsBesideTheWalkOfALongSequence) {
  Shape shape = prefill(DType::kBF16, 1, 8192);
  shape.context_split = ContextSplit::kOff;
  shape.heads = 16;
  shape.value_heads = 32;
  const cuda::sm90::Beside beside = beside_of(shape, kH100);
  EXPECT_TRUE(beside.here());
  EXPECT_GT(beside.blocks, 0);
  EXPECT_LT(beside.blocks + 64, kH100.multiprocessors);
  // A flag for each item, within the workspace.
  EXPECT_EQ(beside.item(beside.chunks - 1, 15, 1) + 1, beside.items(beside.chunks));
  EXPECT_EQ(static_cast<size_t>(beside.offset + beside.bytes()),
            plan_of(shape, kH100).workspace_bytes_per_worker);
  // No blocks stay of several sequences, of short ones, where the walk wants most multiprocessors,
  // or on a device where the preparation could not keep up.
  Shape several = shape, brief = shape, many = shape;
  several.sequences = 2;
  brief.tokens = brief.max_length = 64;
  many.heads = many.value_heads = 64;
  for (const Shape& other : {several, brief, many}) EXPECT_EQ(beside_of(other, kH100).blocks, 0);
  const cuda::Device slice = {9, 0, 16, 227 * 1024};
  Shape few = shape;
  few.heads = few.value_heads = 4;
  EXPECT_EQ(beside_of(few, slice).blocks, 0);
}

TEST(CudaPlans, ItemsThatAreResidentAtOnceAreBesideTheWalk) {
  Shape shape = prefill(DType::kBF16, 1, 2048);
  shape.context_split = ContextSplit::kOff;
  shape.heads = 16;
  shape.value_heads = 32;
  EXPECT_TRUE(beside_of(shape, kH100).here());
  shape.tokens = shape.max_length = 2112;  // blocks too many
  EXPECT_FALSE(beside_of(shape, kH100).here());
  shape.sequences = shape.tokens = 1000;  // of a token each
  shape.max_length = 1;
  EXPECT_FALSE(beside_of(shape, kH100).here());
}

// Every item has a number of its own, and every value head of a group one of its q/k head's items.
TEST(CudaPlans, ItemsOfThePreparationHaveNumbersOfTheirOwn) {
  for (int64_t group : {1, 2, 3, 4, 5, 16}) {
    Shape shape = prefill(DType::kBF16, 1, 100000 / group);
    shape.context_split = ContextSplit::kOff;
    shape.heads = 2;
    shape.value_heads = 2 * group;
    const cuda::sm90::Beside beside = beside_of(shape, kH100);
    ASSERT_TRUE(beside.here());
    int64_t number = 0;
    for (int64_t chunk = 0; chunk < 3; ++chunk) {
      for (int64_t head = 0; head < 2; ++head) {
        for (int64_t in_group = 0; in_group < group; ++in_group) {
          if (in_group % beside.heads_at_once != 0) --number;
          EXPECT_EQ(beside.item(chunk, head, in_group), number++);
        }
      }
    }
    EXPECT_EQ(number, beside.items(3));
  }
}

// Chunks of sequences of any lengths have numbers as in chunk_table.cuh; so have boundaries.
TEST(CudaPlans, BoundariesOfSegmentsHaveNumbersOfTheirOwn) {
  std::mt19937 random(5);
  for (int draw = 0; draw < 2000; ++draw) {
    const int64_t length = 1 + random() % 40, first = length + random() % 40;
    const cuda::sm90::Segments segments{first, length};
    const int64_t sequences = 1 + random() % 12;
    int64_t tokens = 0, free = 0;
    for (int64_t n = 0; n < sequences; ++n) {
      const int64_t at = tokens / 64 + n, mine = random() % 8 == 0 ? 0 : random() % 20000;
      const int64_t chunks = (mine + 63) / 64, count = segments.count(chunks);
      if (count > 1) {
        EXPECT_GE(segments.first_boundary(at), free);
        free = segments.first_boundary(at) + count - 1;
        EXPECT_LT(segments.begin(count - 1), chunks);
      }
      EXPECT_GE(count == 1 ? std::max(first, length) : segments.begin(count), chunks);
      tokens += mine;
    }
    EXPECT_LE(free, segments.boundaries(tokens / 64 + sequences));
  }
}

// Of a machine without a GPU this sees that tensors of one are refused and not that they crash.
TEST(Cuda, InstallsTwiceAndListsItsKernels) {
  EXPECT_TRUE(install_cuda().ok());
  EXPECT_TRUE(install_cuda().ok());
  bool listed = false, supported = false;
  for (const KernelInfo& kernel : kernels()) {
    if (kernel.backend == "cuda") listed = true, supported = kernel.supported;
  }
  EXPECT_TRUE(listed);
  Context context;
  Plan result;
  const Status status = plan(context, prefill(DType::kBF16, 1, 64), &result);
  if (supported) {
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(result.backend, "cuda");
  } else {
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_NE(status.message().find("gdn.chunk: kernel \"sm80\" is not supported: cudaError"),
              std::string::npos)
        << status.message();
  }
}

TEST(Cuda, AKernelOfAnotherDeviceIsRefusedAsSuch) {
  ASSERT_TRUE(install_cuda().ok());
  const auto message = [](const char* kernel, const Shape& shape) {
    Context context;
    context.kernel = kernel;
    Plan result;
    const Status status = plan(context, shape, &result);
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    return std::string(status.message());
  };
  EXPECT_EQ(
      message("reference", prefill(DType::kF32, 1, 64))
          .rfind("gdn.chunk: kernel \"reference\" takes no tensors on CUDA, expected one of ", 0),
      0u);
  const std::string on_cpu = message("sm80", Shape());
  EXPECT_EQ(on_cpu.rfind("gdn.chunk: kernel \"sm80\" takes no tensors on CPU, expected one of ", 0),
            0u)
      << on_cpu;
  EXPECT_NE(on_cpu.find("scalar"), std::string::npos);
  EXPECT_EQ(on_cpu.find("sm80", on_cpu.find("expected")), std::string::npos);
  EXPECT_NE(message("fpga", Shape()).find("kernel \"fpga\" is not in this build"),
            std::string::npos);
}

}  // namespace
}  // namespace gdn::tests
