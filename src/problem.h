// A call after its checks: plain pointers, strides in elements, and the answers to "where does
// sequence n begin, which slot does it read, which does it write". check/ makes problems, plan.cc
// plans from their Shape, backends run them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "gdn/ops.h"
#include "gdn/plan.h"
#include "gdn/tensor.h"

// The answers below are one code for the host and for GPU kernels, to which a problem is passed as
// it is.
#if defined(__CUDACC__)
#define GDN_HOST_DEVICE __host__ __device__
#else
#define GDN_HOST_DEVICE
#endif

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

  GDN_HOST_DEVICE bool given() const { return data != nullptr; }
  // The element, or the first of the row, of token t of a sequence.
  GDN_HOST_DEVICE std::byte* at(const Sequence& s, int64_t t, int64_t head) const {
    return data + (s.batch * batch_stride + (s.begin + t) * token_stride + head * head_stride) *
                      size_of(dtype);
  }
};

// A strided vector of floats, as A_log and dt_bias are.
struct FloatVector {
  const std::byte* data = nullptr;  // nullptr: not given
  DType dtype = DType::kF32;
  int64_t stride = 1;

  GDN_HOST_DEVICE bool given() const { return data != nullptr; }
  GDN_HOST_DEVICE const std::byte* at(int64_t i) const {
    return data + i * stride * size_of(dtype);
  }
};

// A strided matrix of floats.
struct FloatMatrix {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t row_stride = 0;
  int64_t column_stride = 1;

  GDN_HOST_DEVICE const std::byte* at(int64_t row, int64_t column = 0) const {
    return data + (row * row_stride + column * column_stride) * size_of(dtype);
  }
};

// int32 or int64 [N] or [N,M].
struct IndexTensor {
  const std::byte* data = nullptr;  // nullptr: not given
  DType dtype = DType::kI32;
  int64_t row_stride = 0;
  int64_t column_stride = 0;
  int64_t columns = 0;  // M; 0 for [N]

  GDN_HOST_DEVICE bool given() const { return data != nullptr; }
  GDN_HOST_DEVICE const std::byte* place(int64_t row, int64_t column = 0) const {
    return data + (row * row_stride + column * column_stride) * size_of(dtype);
  }
  GDN_HOST_DEVICE int64_t at(int64_t row, int64_t column = 0) const {
    const std::byte* p = place(row, column);
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

  GDN_HOST_DEVICE bool given() const { return data != nullptr; }
  // Element `offset` of a slot.
  GDN_HOST_DEVICE std::byte* at(int64_t slot, int64_t offset = 0) const {
    return data + (slot * slot_stride + offset) * size_of(dtype);
  }
};

// Log-decay and write strength of a token and value head, given or to be computed
// (cpu/gating-inl.h, reference/gating.h).
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

// The states of a convolution: [slots,D,S] with any strides, the newest input last.
struct ChannelStates {
  std::byte* data = nullptr;  // nullptr: not given
  DType dtype = DType::kF32;
  int64_t slots = 0;
  int64_t slot_stride = 0;
  int64_t channel_stride = 0;
  int64_t input_stride = 0;

  GDN_HOST_DEVICE bool given() const { return data != nullptr; }
  GDN_HOST_DEVICE std::byte* at(int64_t slot, int64_t channel = 0, int64_t input = 0) const {
    return data +
           (slot * slot_stride + channel * channel_stride + input * input_stride) * size_of(dtype);
  }
};

// Element offset of row i of [...,D], counted over the leading axes in row-major order.
GDN_HOST_DEVICE inline int64_t row_offset(const int64_t (&extents)[3], const int64_t (&strides)[3],
                                          int64_t i) {
  return i / (extents[1] * extents[2]) * strides[0] + i / extents[2] % extents[1] * strides[1] +
         i % extents[2] * strides[2];
}

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

  GDN_HOST_DEVICE Sequence at(int64_t n) const {
    if (!cu_seqlens.given()) return {n, 0, row_length};
    const int64_t begin = cu_seqlens.at(n);
    return {0, begin, cu_seqlens.at(n + 1) - begin};
  }
  // Tokens of the sequences before n.
  GDN_HOST_DEVICE int64_t first_row(int64_t n) const {
    return cu_seqlens.given() ? cu_seqlens.at(n) : n * row_length;
  }
  // Rows of a packed tensor past the last sequence, whose outputs are zero.
  GDN_HOST_DEVICE Sequence tail() const {
    if (!cu_seqlens.given()) return {};
    const int64_t end = cu_seqlens.at(count);
    return {0, end, row_length - end};
  }
};

// Columns [begin, end) of a head become zero in all rows of a sequence: what a skipped one shows.
inline void zero_columns(const TokenTensor& out, const Sequence& s, int64_t head, int64_t begin,
                         int64_t end) {
  const int64_t size = size_of(out.dtype);
  for (int64_t t = 0; t < s.length; ++t) {
    std::memset(out.at(s, t, head) + begin * size, 0, static_cast<size_t>((end - begin) * size));
  }
}

// The same of all columns of the rows past the last sequence.
inline void zero_tail(const TokenTensor& out, const SequenceTable& sequences, const Shape& shape) {
  for (int64_t head = 0; head < shape.value_heads; ++head) {
    zero_columns(out, sequences.tail(), head, 0, shape.V);
  }
}

// A negative index and the null slot name no slot.
GDN_HOST_DEVICE inline bool names_no_slot(int64_t slot, const std::optional<int64_t>& null_slot) {
  return slot < 0 || (null_slot && slot == *null_slot);
}

// Which slots a call reads and writes: the rules of indices, padding and has_initial_state that all
// operators with states share. Whether there are states at all is another question.
struct StateSlots {
  IndexTensor initial_state_indices, final_state_indices, num_accepted;
  const bool* has_initial_state = nullptr;
  int64_t has_initial_state_stride = 1;
  std::optional<int64_t> null_slot;

  GDN_HOST_DEVICE bool is_padding(int64_t slot) const { return names_no_slot(slot, null_slot); }

  // The column of initial_state_indices that sequence n reads.
  GDN_HOST_DEVICE int64_t initial_column(int64_t n) const {
    return initial_state_indices.columns > 0 && num_accepted.given() ? num_accepted.at(n) - 1 : 0;
  }
  struct Read {
    bool skip = false;  // padding: no work, rows of out become zero, nothing is written
    int64_t slot = -1;  // negative: the state is zero
  };
  GDN_HOST_DEVICE Read read(int64_t n) const { return read(n, initial_column(n)); }
  GDN_HOST_DEVICE Read read(int64_t n, int64_t column) const {
    return read_at(n, initial_state_indices.given() ? initial_state_indices.at(n, column) : n);
  }
  // The same where the index, which is n without indices, has been read.
  GDN_HOST_DEVICE Read read_at(int64_t n, int64_t slot) const {
    if (initial_state_indices.given() && is_padding(slot)) return {true, -1};
    if (has_initial_state && !has_initial_state[n * has_initial_state_stride]) return {false, -1};
    return {false, slot};
  }
  // Whether every token's state is stored ([N,M] final indices) in place of the last one's.
  GDN_HOST_DEVICE bool stores_every_state() const { return final_state_indices.columns > 0; }
  // Where the state after token t (every state stored), or the last state, goes; negative: nowhere.
  GDN_HOST_DEVICE int64_t written_slot(int64_t n, int64_t t = 0) const {
    if (!final_state_indices.given()) return n;
    return written_at(final_state_indices.at(n, stores_every_state() ? t : 0));
  }
  // The same where the index, which is n without indices, has been read.
  GDN_HOST_DEVICE int64_t written_at(int64_t slot) const {
    return final_state_indices.given() && is_padding(slot) ? -1 : slot;
  }
};

// chunk() and recurrent().
struct DeltaRuleProblem : StateSlots {
  Shape shape;  // heads, dims, dtypes, layout, op
  SequenceTable sequences;
  TokenTensor q, k, v, out;
  GateInputs gates;
  float scale = 1.0f;
  bool use_qk_l2norm = false;
  float l2norm_eps = 1e-6f;

  SlotTensor initial_state, final_state;

  int64_t checkpoint_every = 0;  // 0: none
  SlotTensor checkpoints;
  IndexTensor checkpoint_cu;

  GDN_HOST_DEVICE InitialState initial(int64_t n) const {
    const Read from = read(n);
    if (from.skip || from.slot < 0 || !initial_state.given()) return {from.skip, nullptr};
    return {false, initial_state.at(from.slot)};
  }
  // The slot of the state after token t (every state stored) or of the last one; nullptr: nowhere.
  GDN_HOST_DEVICE std::byte* final_slot(int64_t n, int64_t t = 0) const {
    const int64_t slot = final_state.given() ? written_slot(n, t) : -1;
    return slot < 0 ? nullptr : final_state.at(slot);
  }
  // The slot of the state after token (j + 1) * checkpoint_every.
  GDN_HOST_DEVICE std::byte* checkpoint(int64_t n, int64_t j) const {
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
  GDN_HOST_DEVICE int64_t slot(int64_t n) const {
    if (!state_indices.given()) return n;
    const int64_t slot = state_indices.at(n);
    return names_no_slot(slot, null_slot) ? -1 : slot;
  }
  GDN_HOST_DEVICE bool verifies() const { return shape.op == Op::kReplayVerify; }
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

struct RmsNormGatedProblem {
  Shape shape;  // sequences = rows, K = D
  const std::byte* x = nullptr;
  const std::byte* z = nullptr;
  std::byte* y = nullptr;
  FloatVector weight;
  DType dtype = DType::kF32, y_dtype = DType::kF32;  // of x and z; of y
  int64_t extents[3] = {1, 1, 1};                    // the leading axes
  int64_t x_strides[3] = {}, z_strides[3] = {}, y_strides[3] = {};
  float eps = 1e-6f;
};

struct CausalConv1dProblem : StateSlots {
  Shape shape;  // V = D, K = W, state_length = S
  SequenceTable sequences;
  TokenTensor x, y;  // one head
  FloatMatrix weight;
  FloatVector bias;  // may be absent
  bool silu = false;
  ChannelStates initial_state, final_state;

  // How many of the newest inputs of a state are not to be used: those not accepted in the form of
  // speculative decoding that keeps one slot.
  GDN_HOST_DEVICE int64_t dropped(int64_t n, int64_t length) const {
    const bool one_slot = num_accepted.given() && initial_state_indices.columns == 0;
    return one_slot && length > 0 ? length - num_accepted.at(n) : 0;
  }
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
