// A Case is one call of a delta-rule operator or of the convolution, described along every axis
// that can make a difference. It has a one-line form, so that a failure prints the line that
// repeats it:
//
//   gdn verify --case "op=chunk lengths=63,129 H=2 HV=4 dtype=bf16 indices=pool32 seed=7"
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gdn/ops.h"
#include "gdn/status.h"
#include "gdn/tensor.h"

namespace gdn::verify {

enum class Operator : uint8_t {
  kChunk,
  kRecurrent,
  kReplay,  // replay_verify, and replay_commit of what it recorded
  kCausalConv1d,
};

// How sequences lie in the tensors.
enum class Packing : uint8_t {
  kRows,  // rows of the batch, of one length
  kCu32,  // packed, cu_seqlens int32
  kCu64,
};

// Strides of the tensors of tokens, of pools and of indices.
enum class Strides : uint8_t {
  kContiguous,
  kFused,   // q, k, v are slices of one buffer, and so are a and b
  kPadded,  // gaps after heads, tokens, batch rows, slots and indices, outputs too
};

enum class Indices : uint8_t {
  kNone,      // slot n
  kPool32,    // a pool of more slots in any order, int32 [N]
  kPool64,    // the same, int64
  kShared,    // several sequences read one slot
  kPerToken,  // final_state_indices [N,M]: a state per token
  kAccepted,  // both [N,M], the read slot chosen by num_accepted
  kOneSlot,   // causal_conv1d: num_accepted of the inputs in a slot count
};

enum class States : uint8_t { kSeparate, kInPlace, kInitialOnly, kFinalOnly, kNone };

// Padding among the indices, both read and written ones.
enum class Padding : uint8_t { kNone, kNegative, kNullSlot, kBoth };

enum class Gates : uint8_t {
  kGiven,        // g
  kComputed,     // A_log, a in the dtype of q, dt_bias
  kComputedF32,  // A_log, a in float32, no dt_bias
};

enum class Beta : uint8_t { kGiven, kGivenF32, kFromB, kFromBF32, kNone };

// The hard ones (all but the first) fix gates and beta, which they need given.
enum class Input : uint8_t {
  kUsual,          // Mamba-like decay, sigmoid of a normal as beta, normal values
  kIdenticalKeys,  // beta .99, g -1e-3
  kCommonKeys,     // keys with a common direction of weight .9, beta .99, g -1e-3
  kForgetOnce,     // g = -100 at one token
  kForgetAlways,   // g = -100 at every token
  kForgetWhole,    // g = -inf at one token
  kNoDecay,        // g = 0
  kBetaZero,       // beta = 0
  kBetaOne,        // beta = 1
  kZeroChunk,      // 64 tokens of zeros
  kLargeValues,    // v around 1e4
};
constexpr int kInputCount = 11;

struct Case {
  Operator op = Operator::kChunk;
  std::vector<int64_t> lengths = {64};  // of every sequence; N is their number
  int64_t H = 1, HV = 1, K = 64, V = 64;
  DType dtype = DType::kF32;        // q, k, v, out
  DType state = DType::kF32;        // initial_state; replay: state and records
  DType final_state = DType::kF32;  // final_state and checkpoints; in place: that of initial_state
  StateLayout layout = StateLayout::kVK;
  Packing packing = Packing::kCu32;
  int64_t tail = 0;  // rows past the last sequence, packed only
  Strides strides = Strides::kContiguous;
  int64_t shift = 0;  // elements between an aligned address and the first element of every tensor
  Indices indices = Indices::kNone;
  States states = States::kSeparate;
  Padding padding = Padding::kNone;
  bool has_initial = false;  // has_initial_state is given
  Gates gates = Gates::kGiven;
  Beta beta = Beta::kGiven;
  bool neg_eigval = false;
  bool l2norm = false;
  double l2norm_eps = 1e-6;
  double softplus_beta = 1, softplus_threshold = 20;
  double scale = 0;              // 0: the default
  int64_t checkpoint_every = 0;  // chunk only
  Compute compute = Compute::kAuto;
  int64_t chunk_size = 64;
  ContextSplit context_split = ContextSplit::kAuto;
  // causal_conv1d, which has none of H, HV, K, V, layout, gates and what follows them.
  int64_t D = 64, W = 4;
  int64_t spare = 0;           // inputs in a state past the W - 1 that are needed
  DType weight = DType::kF32;  // weight and bias
  bool bias = false;
  bool silu = false;
  bool channels_last = false;  // states [slots,S,D] in memory
  Input input = Input::kUsual;
  uint64_t seed = 1;
  int64_t first = 0;  // the contents of sequence n are those of number first + n of the seed

  int64_t sequences() const { return static_cast<int64_t>(lengths.size()); }
  int64_t tokens() const;  // of all sequences
  int64_t max_length() const;
  int64_t state_length() const { return W - 1 + spare; }  // S of causal_conv1d
  bool operator==(const Case&) const = default;
};

// The fields that differ from the default, as "op=chunk lengths=63,129 ...".
std::string to_string(const Case& c);
// Reads that form; "T=129 N=3" may stand for lengths=129,129,129. Names what it did not understand.
Status parse(const std::string& text, Case* c);

// Ok, or why the axes contradict each other (padding without indices, ...).
Status valid(const Case& c);

const char* name_of(Operator op);
const char* name_of(Input input);

}  // namespace gdn::verify
