// A call after its checks: plain pointers, strides in elements, and the answers to "where does
// sequence n begin, which slot does it read, which does it write". check/ makes problems, plan.cc
// plans from their Shape, backends run them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "gdn/ops.h"
#include "gdn/plan.h"
#include "gdn/tensor.h"

namespace gdn {

// The tokens of one sequence: rows begin .. begin + length - 1 of batch row `batch`.
struct Sequence {
  int64_t batch = 0;
  int64_t begin = 0;
  int64_t length = 0;
};

// A tensor [B,T,h] or [B,T,h,d] whose last axis, where d is given, is contiguous.
struct TokenTensor {
  std::byte* data = nullptr;  // nullptr: not given
  DType dtype = DType::kF32;
  int64_t batch_stride = 0;
  int64_t token_stride = 0;
  int64_t head_stride = 0;

  bool given() const { return data != nullptr; }
  // The element, or the first of the row, of token t of a sequence.
  std::byte* at(const Sequence& s, int64_t t, int64_t head) const {
    return data + (s.batch * batch_stride + (s.begin + t) * token_stride + head * head_stride) *
                      size_of(dtype);
  }
};

// A strided vector of floats, as A_log and dt_bias are.
struct FloatVector {
  const std::byte* data = nullptr;  // nullptr: not given
  DType dtype = DType::kF32;
  int64_t stride = 1;

  bool given() const { return data != nullptr; }
  const std::byte* at(int64_t i) const { return data + i * stride * size_of(dtype); }
};

// int32 or int64 [N] or [N,M].
struct IndexTensor {
  const std::byte* data = nullptr;  // nullptr: not given
  DType dtype = DType::kI32;
  int64_t row_stride = 0;
  int64_t column_stride = 0;
  int64_t columns = 0;  // M; 0 for [N]

  bool given() const { return data != nullptr; }
  int64_t at(int64_t row, int64_t column = 0) const {
    const std::byte* p = data + (row * row_stride + column * column_stride) * size_of(dtype);
    return dtype == DType::kI64 ? *reinterpret_cast<const int64_t*>(p)
                                : *reinterpret_cast<const int32_t*>(p);
  }
};

// [slots, ...] with any slot stride, contiguous inside a slot.
struct SlotTensor {
  std::byte* data = nullptr;  // nullptr: not given
  DType dtype = DType::kF32;
  int64_t slots = 0;
  int64_t slot_stride = 0;

  bool given() const { return data != nullptr; }
  // Element `offset` of a slot.
  std::byte* at(int64_t slot, int64_t offset = 0) const {
    return data + (slot * slot_stride + offset) * size_of(dtype);
  }
};

// Log-decay and write strength of a token and value head, given or to be computed (cpu/gates-inl.h,
// reference/gating.h).
struct GateInputs {
  TokenTensor g;  // given, or computed from the next three
  TokenTensor a;
  FloatVector A_log;
  FloatVector dt_bias;  // may be absent all the same
  float softplus_beta = 1.0f;
  float softplus_threshold = 20.0f;
  TokenTensor beta;  // given, or sigmoid(b), or 1 where neither is given
  TokenTensor b;
  bool allow_neg_eigval = false;
};

// What a sequence starts from.
struct InitialState {
  bool skip = false;                // padding: no work, rows of out become zero, nothing is written
  const std::byte* data = nullptr;  // first element of the slot; nullptr: zero
};

// Which sequences there are: cu_seqlens, or the rows of the batch.
struct SequenceTable {
  int64_t count = 0;       // N
  int64_t row_length = 0;  // T
  IndexTensor cu_seqlens;

  Sequence at(int64_t n) const {
    if (!cu_seqlens.given()) return {n, 0, row_length};
    const int64_t begin = cu_seqlens.at(n);
    return {0, begin, cu_seqlens.at(n + 1) - begin};
  }
  // Rows of a packed tensor past the last sequence, whose outputs are zero.
  Sequence tail() const {
    if (!cu_seqlens.given()) return {};
    const int64_t end = cu_seqlens.at(count);
    return {0, end, row_length - end};
  }
};

// chunk() and recurrent().
struct DeltaRuleProblem {
  Shape shape;  // heads, dims, dtypes, layout, op
  SequenceTable sequences;
  TokenTensor q, k, v, out;
  GateInputs gates;
  float scale = 1.0f;
  bool use_qk_l2norm = false;
  float l2norm_eps = 1e-6f;

  SlotTensor initial_state, final_state;
  IndexTensor initial_state_indices, final_state_indices, num_accepted;
  const bool* has_initial_state = nullptr;
  int64_t has_initial_state_stride = 1;
  std::optional<int64_t> null_slot;

  int64_t checkpoint_every = 0;  // 0: none
  SlotTensor checkpoints;
  IndexTensor checkpoint_cu;

  bool is_padding(int64_t slot) const { return slot < 0 || (null_slot && slot == *null_slot); }

  InitialState initial(int64_t n) const {
    int64_t slot = n;
    if (initial_state_indices.given()) {
      slot = initial_state_indices.at(n, num_accepted.given() ? num_accepted.at(n) - 1 : 0);
      if (is_padding(slot)) return {true, nullptr};
    }
    if (!initial_state.given()) return {};
    if (has_initial_state && !has_initial_state[n * has_initial_state_stride]) return {};
    return {false, initial_state.at(slot)};
  }
  // Whether every token's state is stored ([N,M] final indices) in place of the last one's.
  bool stores_every_state() const { return final_state_indices.columns > 0; }
  // Where the state after token t (every state stored), or the last state, goes; nullptr: nowhere.
  std::byte* final_slot(int64_t n, int64_t t = 0) const {
    if (!final_state.given()) return nullptr;
    int64_t slot = n;
    if (final_state_indices.given()) {
      slot = final_state_indices.at(n, stores_every_state() ? t : 0);
      if (is_padding(slot)) return nullptr;
    }
    return final_state.at(slot);
  }
  // The slot of the state after token (j + 1) * checkpoint_every.
  std::byte* checkpoint(int64_t n, int64_t j) const {
    return checkpoints.at(checkpoint_cu.at(n) + j);
  }
};

// replay_verify() and replay_commit(); for the latter q, k, v, out and gates are not given.
struct ReplayProblem {
  Shape shape;
  SequenceTable sequences;
  TokenTensor q, k, v, out;
  GateInputs gates;
  float scale = 1.0f;
  bool use_qk_l2norm = false;
  float l2norm_eps = 1e-6f;

  SlotTensor state;
  IndexTensor state_indices, num_accepted;
  std::optional<int64_t> null_slot;
  int64_t record_tokens = 0;  // M
  SlotTensor record_k;        // slot: [M,H,K]
  SlotTensor record_v;        // slot: [M,HV,V]
  SlotTensor record_g;        // slot: [M,HV]

  // The slot of sequence n; negative: padding.
  int64_t slot(int64_t n) const {
    if (!state_indices.given()) return n;
    const int64_t slot = state_indices.at(n);
    return null_slot && slot == *null_slot ? -1 : slot;
  }
  bool verifies() const { return shape.op == Op::kReplayVerify; }
};

struct GatingProblem {
  Shape shape;       // sequences = B, max_length = T, value_heads = HV
  GateInputs gates;  // a, A_log, dt_bias, b
  TokenTensor g, beta;
};

struct L2normProblem {
  Shape shape;  // K = D
  const std::byte* x = nullptr;
  std::byte* y = nullptr;
  DType x_dtype = DType::kF32, y_dtype = DType::kF32;
  int64_t extents[3] = {1, 1, 1};  // the leading axes
  int64_t x_strides[3] = {}, y_strides[3] = {};
  float eps = 1e-6f;
};

struct SolveTrilProblem {
  Shape shape;  // K = n, sequences = matrices
  const std::byte* lower = nullptr;
  std::byte* inverse = nullptr;
  std::byte* residual = nullptr;  // nullptr: not asked for
  DType dtype = DType::kF32;
  int64_t extents[3] = {1, 1, 1};  // the leading axes
  int64_t lower_strides[3] = {}, inverse_strides[3] = {}, residual_strides[3] = {};
  int64_t lower_row_stride = 0, inverse_row_stride = 0;
  SolveMethod method = SolveMethod::kExact;
  int64_t iterations = 0;
  bool bf16_steps = false;  // Compute::kBF16
};

}  // namespace gdn
