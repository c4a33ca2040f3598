// What a call will do before it does it: which backend and kernel, how the work is split, how much
// scratch memory it takes. A plan is a pure function of a shape and a device.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gdn/context.h"
#include "gdn/export.h"
#include "gdn/ops.h"
#include "gdn/status.h"
#include "gdn/tensor.h"

namespace gdn {

enum class Op : uint8_t {
  kChunk,
  kRecurrent,
  kReplayVerify,
  kReplayCommit,
  kGating,
  kL2norm,
  kSolveTril,
  kRmsNormGated,
  kCausalConv1d,
};

// "gdn.chunk" and so on: what messages start with.
GDN_API const char* name_of(Op op);

// What a plan depends on. For the operators that are no delta rule only some fields have a meaning.
struct Shape {
  Op op = Op::kChunk;
  DeviceType device = DeviceType::kCPU;
  int64_t sequences = 1;      // N. l2norm, rms_norm_gated: rows; solve_tril: matrices
  int64_t tokens = 1;         // of all sequences together
  int64_t max_length = 1;     // of one sequence
  int64_t heads = 1;          // H
  int64_t value_heads = 1;    // HV
  int64_t K = 128;            // l2norm, rms_norm_gated: D; solve_tril: n; causal_conv1d: W
  int64_t V = 128;            // causal_conv1d: D
  DType dtype = DType::kF32;  // of q, k, v and out
  DType state_dtype = DType::kF32;
  StateLayout layout = StateLayout::kVK;
  Compute compute = Compute::kAuto;
  int64_t chunk_size = 64;                           // of the reference's staged pipeline
  ContextSplit context_split = ContextSplit::kAuto;  // of chunk
  int64_t state_length = 0;                          // causal_conv1d: S, or 0 without states
};

// The names are static strings.
struct Plan {
  Op op = Op::kChunk;
  std::string_view backend;         // "cpu", "reference", or that of a device's library
  std::string_view kernel;          // as listed by kernels()
  std::string_view reason;          // why this kernel
  Compute compute = Compute::kF32;  // what the matrix products take
  int64_t chunk = 0;                // tokens of a chunk; 0 where there are none
  int64_t parts = 1;  // into how many V ranges the value heads of a q/k head are split, or channel
                      // ranges the convolution
  // Of a context split, in tokens: of a sequence's first segment and of the others, which a
  // sequence has if it is longer than the first. 0: sequences are not split. (Nor are they in a
  // call that stores the state after every token, which a Shape does not tell.)
  int64_t first_segment_tokens = 0, segment_tokens = 0;
  // Whether what comes behind the first is walked once, and its outputs completed; else twice. (A
  // call with checkpoints has the segments that it would have if there were no such way.)
  bool segments_walked_once = false;
  int64_t tasks = 0;
  int workers = 1;
  size_t workspace_bytes_per_worker = 0;
  size_t workspace_bytes = 0;
};

// One line for a person.
GDN_API std::string to_string(const Plan& plan);

GDN_API Status plan(const Context& context, const Shape& shape, Plan* plan);

// Checks the arguments as the operator does, then plans.
GDN_API Status plan(const Context& context, const ChunkArgs& args, Plan* plan);
GDN_API Status plan(const Context& context, const RecurrentArgs& args, Plan* plan);
GDN_API Status plan(const Context& context, const ReplayVerifyArgs& args, Plan* plan);
GDN_API Status plan(const Context& context, const ReplayCommitArgs& args, Plan* plan);
GDN_API Status plan(const Context& context, const GatingArgs& args, Plan* plan);
GDN_API Status plan(const Context& context, const L2normArgs& args, Plan* plan);
GDN_API Status plan(const Context& context, const SolveTrilArgs& args, Plan* plan);
GDN_API Status plan(const Context& context, const RmsNormGatedArgs& args, Plan* plan);
GDN_API Status plan(const Context& context, const CausalConv1dArgs& args, Plan* plan);

struct KernelInfo {
  std::string_view backend;
  std::string_view name;  // what Context::kernel takes
  std::string_view description;
  bool supported = false;  // by this machine
};

// Every kernel of this build, the preferred first. This and to_string throw std::bad_alloc where
// there is no memory, and nothing else.
GDN_API std::vector<KernelInfo> kernels();

}  // namespace gdn
