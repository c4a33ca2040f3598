// The C API gives what the C++ API gives, bit for bit, and says what is wrong with a call.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "gdn.h"
#include "gdn/gdn.h"
#include "kernels_under_test.h"
#include "verify/inputs.h"
#include "verify/random.h"
#include "verify/tensor.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::Tensor;

gdn_tensor c_tensor(const TensorView& view) {
  gdn_tensor tensor = {};
  if (!view.given()) return tensor;
  tensor.data = view.data;
  tensor.dtype = static_cast<int32_t>(view.dtype);
  tensor.device = static_cast<int32_t>(view.device);
  tensor.rank = view.rank;
  std::copy_n(view.shape, view.rank, tensor.shape);
  std::copy_n(view.strides, view.rank, tensor.strides);
  return tensor;
}

int32_t c_layout(StateLayout layout) {
  return layout == StateLayout::kVK ? GDN_STATE_VK : GDN_STATE_KV;
}

template <class T>
T sized() {
  T s = {};
  s.size = sizeof(T);
  return s;
}

template <class T>
const T* pointer(const std::optional<T>& option) {
  return option.has_value() ? &*option : nullptr;
}

// The fields that several operators share. Options point into `args`.
template <class Args, class C>
void set_gates(const Args& args, C* c) {
  c->g = c_tensor(args.g);
  c->A_log = c_tensor(args.A_log);
  c->a = c_tensor(args.a);
  c->dt_bias = c_tensor(args.dt_bias);
  c->beta = c_tensor(args.beta);
  c->b = c_tensor(args.b);
  c->softplus_beta = &args.softplus_beta;
  c->softplus_threshold = &args.softplus_threshold;
  c->allow_neg_eigval = args.allow_neg_eigval;
}
template <class Args, class C>
void set_tokens(const Args& args, C* c) {
  set_gates(args, c);
  c->q = c_tensor(args.q);
  c->k = c_tensor(args.k);
  c->v = c_tensor(args.v);
  c->out = c_tensor(args.out);
  c->cu_seqlens = c_tensor(args.cu_seqlens);
  c->scale = pointer(args.scale);
  c->use_qk_l2norm = args.use_qk_l2norm;
  c->l2norm_eps = &args.l2norm_eps;
}
template <class Args, class C>
void set_states(const Args& args, C* c) {
  c->initial_state = c_tensor(args.initial_state);
  c->final_state = c_tensor(args.final_state);
  c->initial_state_indices = c_tensor(args.initial_state_indices);
  c->final_state_indices = c_tensor(args.final_state_indices);
  c->has_initial_state = c_tensor(args.has_initial_state);
  c->num_accepted = c_tensor(args.num_accepted);
  c->null_slot = pointer(args.null_slot);
}
template <class Args, class C>
void set_records(const Args& args, C* c) {
  c->state = c_tensor(args.state);
  c->state_indices = c_tensor(args.state_indices);
  c->num_accepted = c_tensor(args.num_accepted);
  c->record_k = c_tensor(args.record_k);
  c->record_v = c_tensor(args.record_v);
  c->record_g = c_tensor(args.record_g);
  c->null_slot = pointer(args.null_slot);
  c->state_layout = c_layout(args.state_layout);
}

gdn_chunk_args to_c(const ChunkArgs& args) {
  auto c = sized<gdn_chunk_args>();
  set_tokens(args, &c);
  set_states(args, &c);
  c.compute = static_cast<int32_t>(args.compute);
  c.state_layout = c_layout(args.state_layout);
  c.chunk_size = &args.chunk_size;
  c.context_split = static_cast<int32_t>(args.context_split);
  c.checkpoint_every = args.checkpoint_every;
  c.checkpoints = c_tensor(args.checkpoints);
  c.checkpoint_cu = c_tensor(args.checkpoint_cu);
  return c;
}
gdn_recurrent_args to_c(const RecurrentArgs& args) {
  auto c = sized<gdn_recurrent_args>();
  set_tokens(args, &c);
  set_states(args, &c);
  c.compute = static_cast<int32_t>(args.compute);
  c.state_layout = c_layout(args.state_layout);
  return c;
}
gdn_replay_verify_args to_c(const ReplayVerifyArgs& args) {
  auto c = sized<gdn_replay_verify_args>();
  set_tokens(args, &c);
  set_records(args, &c);
  return c;
}
gdn_replay_commit_args to_c(const ReplayCommitArgs& args) {
  auto c = sized<gdn_replay_commit_args>();
  set_records(args, &c);
  return c;
}
gdn_gating_args to_c(const GatingArgs& args) {
  auto c = sized<gdn_gating_args>();
  set_gates(args, &c);
  return c;
}
gdn_l2norm_args to_c(const L2normArgs& args) {
  auto c = sized<gdn_l2norm_args>();
  c.x = c_tensor(args.x);
  c.y = c_tensor(args.y);
  c.eps = &args.eps;
  return c;
}
gdn_rms_norm_gated_args to_c(const RmsNormGatedArgs& args) {
  auto c = sized<gdn_rms_norm_gated_args>();
  c.x = c_tensor(args.x);
  c.z = c_tensor(args.z);
  c.weight = c_tensor(args.weight);
  c.y = c_tensor(args.y);
  c.eps = &args.eps;
  return c;
}
gdn_causal_conv1d_args to_c(const CausalConv1dArgs& args) {
  auto c = sized<gdn_causal_conv1d_args>();
  c.x = c_tensor(args.x);
  c.weight = c_tensor(args.weight);
  c.bias = c_tensor(args.bias);
  c.y = c_tensor(args.y);
  c.silu = args.silu;
  c.cu_seqlens = c_tensor(args.cu_seqlens);
  set_states(args, &c);
  return c;
}
gdn_solve_tril_args to_c(const SolveTrilArgs& args) {
  auto c = sized<gdn_solve_tril_args>();
  c.lower = c_tensor(args.lower);
  c.inverse = c_tensor(args.inverse);
  c.residual = c_tensor(args.residual);
  c.iterations = &args.iterations;
  c.method = static_cast<int32_t>(args.method);
  c.compute = static_cast<int32_t>(args.compute);
  return c;
}

// One name for all operators.
#define GDN_PAIR(Args, name)                                                                   \
  Status cpp(const Args& args) {                                                               \
    Context context;                                                                           \
    return name(context, args);                                                                \
  }                                                                                            \
  gdn_status c_call(const gdn_context* context, const gdn_##name##_args* args, char* message,  \
                    size_t bytes) {                                                            \
    return gdn_##name(context, args, message, bytes);                                          \
  }                                                                                            \
  gdn_status c_plan(const gdn_context* context, const gdn_##name##_args* args, gdn_plan* plan, \
                    char* message, size_t bytes) {                                             \
    return gdn_plan_##name(context, args, plan, message, bytes);                               \
  }
GDN_PAIR(ChunkArgs, chunk)
GDN_PAIR(RecurrentArgs, recurrent)
GDN_PAIR(ReplayVerifyArgs, replay_verify)
GDN_PAIR(ReplayCommitArgs, replay_commit)
GDN_PAIR(GatingArgs, gating)
GDN_PAIR(L2normArgs, l2norm)
GDN_PAIR(RmsNormGatedArgs, rms_norm_gated)
GDN_PAIR(CausalConv1dArgs, causal_conv1d)
GDN_PAIR(SolveTrilArgs, solve_tril)
#undef GDN_PAIR

// Calls through C, which has to succeed; plans first, and the plan has to be that of C++.
template <class Args>
void call_c(const Args& args) {
  const auto c_args = to_c(args);
  const auto context = sized<gdn_context>();
  char message[256] = "unchanged";

  auto c_made = sized<gdn_plan>();
  EXPECT_EQ(c_plan(&context, &c_args, &c_made, message, sizeof message), GDN_OK) << message;
  Plan made;
  expect_ok(plan(Context{}, args, &made));
  EXPECT_EQ(c_made.workspace_bytes, made.workspace_bytes);
  EXPECT_EQ(c_made.workers, made.workers);
  EXPECT_EQ(c_made.tasks, made.tasks);
  EXPECT_EQ(c_made.backend, made.backend);
  EXPECT_EQ(c_made.kernel, made.kernel);
  EXPECT_EQ(c_made.text, to_string(made));

  EXPECT_EQ(c_call(&context, &c_args, message, sizeof message), GDN_OK) << message;
  EXPECT_STREQ(message, "");
}

// The whole buffers are equal, and the call has written something.
void expect_same(const char* name, const Tensor& c, const Tensor& cpp, const Tensor& before) {
  ASSERT_EQ(c.given(), cpp.given()) << name;
  if (!c.given()) return;
  const auto& a = c.buffer();
  const auto& b = cpp.buffer();
  ASSERT_EQ(a.size(), b.size()) << name;
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size()), 0) << name << " differs";
  EXPECT_NE(std::memcmp(a.data(), before.buffer().data(), a.size()), 0) << name << " is unwritten";
}

// Cases in which every argument and option is given by one or the other, with values that make a
// difference.
std::vector<Case> delta_rule_cases(verify::Operator op) {
  Case c;
  c.op = op;
  c.lengths = {70, 3, 17};
  c.H = 2;
  c.HV = 4;
  c.K = 16;
  c.V = 40;
  c.seed = 21;
  Case pool = c;
  pool.lengths = {70, 3, 17, 1, 2, 5, 4, 0, 9};  // enough for some without an initial state
  pool.indices = verify::Indices::kPool64;
  pool.padding = verify::Padding::kNullSlot;
  pool.has_initial = true;
  pool.gates = verify::Gates::kComputed;
  pool.softplus_beta = 2;
  pool.softplus_threshold = .5;
  pool.beta = verify::Beta::kFromB;
  pool.neg_eigval = true;
  pool.l2norm = true;
  pool.l2norm_eps = .5;
  pool.scale = .75;
  Case strided = c;
  strided.strides = verify::Strides::kPadded;
  strided.layout = StateLayout::kKV;
  strided.dtype = DType::kBF16;
  strided.state = strided.final_state = DType::kF16;
  strided.compute = Compute::kF32;
  strided.states = verify::States::kInPlace;
  Case rows = c;
  rows.packing = verify::Packing::kRows;
  rows.lengths = {5, 5, 5};
  Case accepted = c;
  accepted.lengths = {2, 3, 1};
  accepted.indices = verify::Indices::kAccepted;
  accepted.padding = verify::Padding::kNegative;
  std::vector<Case> cases = {c, pool, strided, rows};
  if (op == verify::Operator::kRecurrent) cases.push_back(accepted);
  if (op == verify::Operator::kChunk) {
    cases[0].checkpoint_every = 64;
    cases[0].chunk_size = 32;
  }
  for (const Case& each : cases) {
    const Status status = verify::valid(each);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return cases;
}

TEST(CApi, ChunkAndRecurrentGiveTheBitsOfCpp) {
  for (verify::Operator op : {verify::Operator::kChunk, verify::Operator::kRecurrent}) {
    for (const Case& c : delta_rule_cases(op)) {
      SCOPED_TRACE(verify::to_string(c));
      const auto before = make_delta_rule(c), from_c = make_delta_rule(c),
                 from_cpp = make_delta_rule(c);
      if (op == verify::Operator::kChunk) {
        expect_ok(cpp(from_cpp.chunk_args()));
        call_c(from_c.chunk_args());
      } else {
        expect_ok(cpp(from_cpp.recurrent_args()));
        call_c(from_c.recurrent_args());
      }
      expect_same("out", from_c.out, from_cpp.out, before.out);
      expect_same("final_state", from_c.final_state, from_cpp.final_state, before.final_state);
      expect_same("checkpoints", from_c.checkpoints, from_cpp.checkpoints, before.checkpoints);
    }
  }
}

TEST(CApi, ReplayGivesTheBitsOfCpp) {
  Case c;
  c.op = verify::Operator::kReplay;
  c.states = verify::States::kInPlace;
  c.lengths = {2, 4, 1, 3, 4};
  c.H = 2;
  c.HV = 4;
  c.K = 16;
  c.V = 40;
  Case other = c;
  other.indices = verify::Indices::kPool32;
  other.padding = verify::Padding::kNullSlot;
  other.layout = StateLayout::kKV;
  other.gates = verify::Gates::kComputed;
  other.beta = verify::Beta::kFromB;
  other.neg_eigval = true;
  other.l2norm = true;
  other.scale = .75;
  for (const Case& each : {c, other}) {
    SCOPED_TRACE(verify::to_string(each));
    const Status status = verify::valid(each);
    ASSERT_TRUE(status.ok()) << status.message();
    const auto before = make_replay(each), from_c = make_replay(each), from_cpp = make_replay(each);
    const auto compare = [&](const char* step) {
      SCOPED_TRACE(step);
      expect_same("out", from_c.out, from_cpp.out, before.out);
      expect_same("state", from_c.state, from_cpp.state, before.state);
      expect_same("record_k", from_c.record_k, from_cpp.record_k, before.record_k);
      expect_same("record_v", from_c.record_v, from_cpp.record_v, before.record_v);
      expect_same("record_g", from_c.record_g, from_cpp.record_g, before.record_g);
    };
    expect_ok(cpp(from_cpp.verify_args()));
    call_c(from_c.verify_args());
    compare("verify");
    const Tensor verified = from_c.state.clone();
    expect_ok(cpp(from_cpp.commit_args()));
    call_c(from_c.commit_args());
    compare("commit");
    expect_same("state", from_c.state, from_cpp.state, verified);
  }
}

TEST(CApi, CausalConv1dGivesTheBitsOfCpp) {
  Case c;
  c.op = verify::Operator::kCausalConv1d;
  c.lengths = {9, 1, 30};
  Case other = c;
  other.indices = verify::Indices::kPool64;
  other.padding = verify::Padding::kNullSlot;
  other.has_initial = true;
  other.bias = true;
  other.silu = true;
  Case accepted = c;
  accepted.lengths = {2, 3, 1};
  accepted.indices = verify::Indices::kAccepted;
  for (const Case& each : {c, other, accepted}) {
    SCOPED_TRACE(verify::to_string(each));
    const Status status = verify::valid(each);
    ASSERT_TRUE(status.ok()) << status.message();
    const auto before = make_causal_conv1d(each), from_c = make_causal_conv1d(each),
               from_cpp = make_causal_conv1d(each);
    expect_ok(cpp(from_cpp.args()));
    call_c(from_c.args());
    expect_same("y", from_c.y, from_cpp.y, before.y);
    expect_same("final_state", from_c.final_state, from_cpp.final_state, before.final_state);
  }
}

Tensor random_tensor(DType dtype, const std::vector<int64_t>& shape, uint64_t seed) {
  Tensor tensor(dtype, shape);
  verify::Random random(seed);
  for (int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, .5 * random.normal());
  return tensor;
}

// Runs both APIs on arguments made by make(outputs), which has to give its outputs to `args`.
template <class Make>
void expect_same_bits(const std::vector<Tensor>& outputs, const Make& make) {
  std::vector<Tensor> from_c, from_cpp;
  for (const Tensor& output : outputs) {
    from_c.push_back(output.clone());
    from_cpp.push_back(output.clone());
  }
  expect_ok(cpp(make(from_cpp)));
  call_c(make(from_c));
  for (size_t i = 0; i < outputs.size(); ++i) {
    expect_same(std::to_string(i).c_str(), from_c[i], from_cpp[i], outputs[i]);
  }
}

TEST(CApi, ElementwiseOperatorsGiveTheBitsOfCpp) {
  const std::vector<int64_t> tokens = {2, 5, 6};
  const Tensor x = random_tensor(DType::kBF16, tokens, 1),
               z = random_tensor(DType::kBF16, tokens, 2),
               heads = random_tensor(DType::kF32, {6}, 3),
               bias = random_tensor(DType::kF16, {6}, 4);
  expect_same_bits({Tensor(DType::kF32, tokens), Tensor(DType::kBF16, tokens)},
                   [&](const std::vector<Tensor>& outputs) {
                     GatingArgs args;
                     args.a = x.view();
                     args.A_log = heads.view();
                     args.dt_bias = bias.view();
                     args.b = z.view();
                     args.g = outputs[0].view();
                     args.beta = outputs[1].view();
                     args.softplus_beta = 2;
                     args.softplus_threshold = .5;
                     args.allow_neg_eigval = true;
                     return args;
                   });
  expect_same_bits({Tensor(DType::kF16, tokens)}, [&](const std::vector<Tensor>& outputs) {
    L2normArgs args;
    args.x = x.view();
    args.y = outputs[0].view();
    args.eps = .5;
    return args;
  });
  expect_same_bits({Tensor(DType::kBF16, tokens)}, [&](const std::vector<Tensor>& outputs) {
    RmsNormGatedArgs args;
    args.x = x.view();
    args.z = z.view();
    args.weight = heads.view();
    args.y = outputs[0].view();
    args.eps = .5;
    return args;
  });
}

TEST(CApi, SolveTrilGivesTheBitsOfCpp) {
  const Tensor lower = random_tensor(DType::kBF16, {3, 20, 20}, 5);
  for (SolveMethod method : {SolveMethod::kExact, SolveMethod::kNeumann}) {
    expect_same_bits({Tensor(DType::kBF16, lower.shape()), Tensor(DType::kF32, {3})},
                     [&](const std::vector<Tensor>& outputs) {
                       SolveTrilArgs args;
                       args.lower = lower.view();
                       args.inverse = outputs[0].view();
                       args.residual = outputs[1].view();
                       args.method = method;
                       args.iterations = 2;
                       if (method == SolveMethod::kNeumann) args.compute = Compute::kBF16;
                       return args;
                     });
  }
  // A single matrix has a residual without axes.
  const Tensor one = random_tensor(DType::kF32, {7, 7}, 6);
  expect_same_bits({Tensor(DType::kF32, {7, 7}), Tensor(DType::kF32, std::vector<int64_t>{})},
                   [&](const std::vector<Tensor>& outputs) {
                     SolveTrilArgs args;
                     args.lower = one.view();
                     args.inverse = outputs[0].view();
                     args.residual = outputs[1].view();
                     return args;
                   });
}

// A call in C that is right: contiguous tensors without strides, options not given.
struct Recurrent {
  std::vector<float> q = values(2 * 3 * 8, 1), k = values(2 * 3 * 8, 2), v = values(2 * 6 * 8, 3);
  std::vector<float> a = values(2 * 6, 4), A_log = values(6, 5), b = values(2 * 6, 6);
  std::vector<float> state = values(6 * 8 * 8, 7);
  std::vector<float> out = std::vector<float>(2 * 6 * 8, -1);
  gdn_context context = sized<gdn_context>();
  gdn_recurrent_args args = sized<gdn_recurrent_args>();

  Recurrent() {
    args.state_layout = GDN_STATE_KV;
    args.q = tensor(q, {1, 2, 3, 8});
    args.k = tensor(k, {1, 2, 3, 8});
    args.v = tensor(v, {1, 2, 6, 8});
    args.out = tensor(out, {1, 2, 6, 8});
    args.a = tensor(a, {1, 2, 6});
    args.A_log = tensor(A_log, {6});
    args.b = tensor(b, {1, 2, 6});
    args.initial_state = args.final_state = tensor(state, {1, 6, 8, 8});
    args.use_qk_l2norm = 1;
  }

  static std::vector<float> values(size_t count, uint64_t seed) {
    verify::Random random(seed);
    std::vector<float> numbers(count);
    for (float& x : numbers) x = static_cast<float>(random.normal());
    return numbers;
  }
  static gdn_tensor tensor(std::vector<float>& data, std::initializer_list<int64_t> shape) {
    gdn_tensor t = {};
    t.data = data.data();
    t.rank = static_cast<int64_t>(shape.size());
    std::copy(shape.begin(), shape.end(), t.shape);
    return t;
  }
  std::string fails(gdn_status expected) {
    const auto out_before = out, state_before = state;
    char message[512] = "unchanged";
    EXPECT_EQ(gdn_recurrent(&context, &args, message, sizeof message), expected) << message;
    EXPECT_EQ(out, out_before);
    EXPECT_EQ(state, state_before);
    return message;
  }
};

TEST(CApi, WhatIsZeroHasTheDefaultsOfCpp) {
  Recurrent call, other;
  char message[256];
  ASSERT_EQ(gdn_recurrent(&call.context, &call.args, message, sizeof message), GDN_OK) << message;

  RecurrentArgs args(StateLayout::kKV);
  args.q = {other.q.data(), {1, 2, 3, 8}};
  args.k = {other.k.data(), {1, 2, 3, 8}};
  args.v = {other.v.data(), {1, 2, 6, 8}};
  args.out = {other.out.data(), {1, 2, 6, 8}};
  args.a = {other.a.data(), {1, 2, 6}};
  args.A_log = {other.A_log.data(), {6}};
  args.b = {other.b.data(), {1, 2, 6}};
  args.initial_state = args.final_state = {other.state.data(), {1, 6, 8, 8}};
  args.use_qk_l2norm = true;
  expect_ok(cpp(args));
  EXPECT_EQ(call.out, other.out);
  EXPECT_EQ(call.state, other.state);
}

TEST(CApi, TheStateLayoutHasNoDefault) {
  Recurrent call;
  call.args.state_layout = 0;
  const std::string expected = ", expected GDN_STATE_VK or GDN_STATE_KV";
  EXPECT_EQ(call.fails(GDN_INVALID_ARGUMENT), "gdn.recurrent: state_layout is not set" + expected);
  call.args.state_layout = 3;
  EXPECT_EQ(call.fails(GDN_INVALID_ARGUMENT), "gdn.recurrent: state_layout is 3" + expected);

  const auto context = sized<gdn_context>();
  char message[256];
  const auto chunk = sized<gdn_chunk_args>();
  EXPECT_EQ(gdn_chunk(&context, &chunk, message, sizeof message), GDN_INVALID_ARGUMENT);
  EXPECT_EQ(message, "gdn.chunk: state_layout is not set" + expected);
  const auto replay = sized<gdn_replay_verify_args>();
  EXPECT_EQ(gdn_replay_verify(&context, &replay, message, sizeof message), GDN_INVALID_ARGUMENT);
  EXPECT_EQ(message, "gdn.replay_verify: state_layout is not set" + expected);
  const auto commit = sized<gdn_replay_commit_args>();
  EXPECT_EQ(gdn_replay_commit(&context, &commit, message, sizeof message), GDN_INVALID_ARGUMENT);
  EXPECT_EQ(message, "gdn.replay_commit: state_layout is not set" + expected);
}

TEST(CApi, StructsOfAnotherSizeAreErrors) {
  Recurrent call;
  call.args.size = 0;
  EXPECT_EQ(call.fails(GDN_INVALID_ARGUMENT),
            "gdn.recurrent: args.size is 0, expected sizeof(gdn_recurrent_args), here " +
                std::to_string(sizeof(gdn_recurrent_args)));
  call.args.size = sizeof call.args - 8;
  EXPECT_EQ(call.fails(GDN_INVALID_ARGUMENT).find("gdn.recurrent: args.size is "), 0u);
  call.args.size = SIZE_MAX;
  EXPECT_EQ(call.fails(GDN_INVALID_ARGUMENT).find("gdn.recurrent: args.size is "), 0u);
  call = Recurrent();
  call.context.size = 1;
  EXPECT_EQ(call.fails(GDN_INVALID_ARGUMENT),
            "gdn.recurrent: context.size is 1, expected sizeof(gdn_context), here " +
                std::to_string(sizeof(gdn_context)));
}

// A caller that was compiled with a later header, whose struct has fields at the end.
TEST(CApi, FieldsOfALaterVersionMustBeZero) {
  struct Later {
    gdn_recurrent_args args;
    int64_t new_option;
  };
  Recurrent call;
  Later later = {call.args, 0};
  later.args.size = sizeof later;
  char message[256];
  EXPECT_EQ(gdn_recurrent(&call.context, &later.args, message, sizeof message), GDN_OK) << message;
  later.new_option = 1;
  EXPECT_EQ(gdn_recurrent(&call.context, &later.args, message, sizeof message), GDN_UNSUPPORTED);
  EXPECT_STREQ(message, "gdn.recurrent: args sets a field that version " GDN_VERSION
                        " of the library does not have");
}

TEST(CApi, ReservedFieldsMustBeZero) {
  const auto context = sized<gdn_context>();
  auto args = sized<gdn_gating_args>();
  args.reserved = 7;
  char message[256];
  EXPECT_EQ(gdn_gating(&context, &args, message, sizeof message), GDN_INVALID_ARGUMENT);
  EXPECT_STREQ(message, "gdn.gating: args.reserved is 7, expected 0");
}

TEST(CApi, NullPointersAreErrors) {
  Recurrent call;
  char message[256];
  EXPECT_EQ(gdn_recurrent(nullptr, &call.args, message, sizeof message), GDN_INVALID_ARGUMENT);
  EXPECT_STREQ(message, "gdn.recurrent: context is NULL, expected a gdn_context");
  EXPECT_EQ(gdn_recurrent(&call.context, nullptr, message, sizeof message), GDN_INVALID_ARGUMENT);
  EXPECT_STREQ(message, "gdn.recurrent: args is NULL, expected a gdn_recurrent_args");
  EXPECT_EQ(gdn_plan_recurrent(&call.context, &call.args, nullptr, message, sizeof message),
            GDN_INVALID_ARGUMENT);
  EXPECT_STREQ(message, "gdn.recurrent: plan is NULL, expected a gdn_plan");
  EXPECT_EQ(gdn_executor_create(1, nullptr, message, sizeof message), GDN_INVALID_ARGUMENT);
  EXPECT_STREQ(message, "gdn_executor_create: executor is NULL, expected where to put the new one");
  gdn_executor* executor = nullptr;
  EXPECT_EQ(gdn_executor_create_from(nullptr, &executor, message, sizeof message),
            GDN_INVALID_ARGUMENT);
  EXPECT_STREQ(message,
               "gdn_executor_create_from: callbacks is NULL, expected a gdn_executor_callbacks");
  EXPECT_EQ(executor, nullptr);
  EXPECT_EQ(gdn_get_kernel(0, nullptr, message, sizeof message), GDN_INVALID_ARGUMENT);
  EXPECT_STREQ(message, "gdn_get_kernel: kernel is NULL, expected a gdn_kernel");
  gdn_executor_destroy(nullptr);
}

// The checks are those of C++: a tensor that is not there, that is NULL, that makes no sense.
// The plan of a caller that is newer than the library: what it does not know is zero.
TEST(CApi, FieldsOfAPlanThatTheLibraryLacksBecomeZero) {
  Recurrent call;
  struct Newer {
    gdn_plan plan;
    char more[40];
  } newer;
  std::memset(&newer, 0x5a, sizeof newer);
  newer.plan.size = sizeof newer;
  char message[256];
  ASSERT_EQ(gdn_plan_recurrent(&call.context, &call.args, &newer.plan, message, sizeof message),
            GDN_OK)
      << message;
  EXPECT_EQ(newer.plan.size, sizeof newer);
  EXPECT_NE(newer.plan.kernel[0], '\0');
  for (char byte : newer.more) EXPECT_EQ(byte, 0);
}

TEST(CApi, WrongTensorsAreErrors) {
  Recurrent call;
  RecurrentArgs same(StateLayout::kKV);
  Context context;
  call.args.q = {};
  EXPECT_EQ(call.fails(GDN_INVALID_ARGUMENT), recurrent(context, same).message());

  const auto changed = [](void (*change)(gdn_tensor&)) {
    Recurrent fresh;
    change(fresh.args.q);
    return fresh.fails(GDN_INVALID_ARGUMENT);
  };
  for (const std::string& message :
       {changed([](gdn_tensor& t) { t.data = nullptr; }),
        changed([](gdn_tensor& t) { t.rank = 7; }), changed([](gdn_tensor& t) { t.rank = -1; }),
        changed([](gdn_tensor& t) { t.rank = INT64_MAX; }),
        changed([](gdn_tensor& t) { t.dtype = 6; }), changed([](gdn_tensor& t) { t.dtype = -1; }),
        changed([](gdn_tensor& t) { t.dtype = 256; }),
        changed([](gdn_tensor& t) { t.device = 256; }),
        changed([](gdn_tensor& t) { t.shape[1] = INT64_MAX; }),
        changed([](gdn_tensor& t) { t.shape[1] = -1; }),
        changed([](gdn_tensor& t) { t.strides[3] = 2; })}) {
    EXPECT_EQ(message.find("gdn.recurrent: "), 0u) << message;
  }
  call = Recurrent();
  call.args.compute = 256;
  EXPECT_EQ(call.fails(GDN_INVALID_ARGUMENT).find("gdn.recurrent: compute is "), 0u);
}

// It steers the reference alone, so that no bit of a kernel shows it.
TEST(CApi, TheChunkSizeIsHandedOn) {
  Case c;
  const auto data = make_delta_rule(c);
  const ChunkArgs from = data.chunk_args();  // to_c points into it
  gdn_chunk_args args = to_c(from);
  const int64_t zero = 0;
  args.chunk_size = &zero;
  const auto context = sized<gdn_context>();
  char message[256];
  EXPECT_EQ(gdn_chunk(&context, &args, message, sizeof message), GDN_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(message).find("gdn.chunk: chunk_size is 0"), 0u) << message;
}

TEST(CApi, TheContextSplitIsHandedOn) {
  Case c;
  const auto data = make_delta_rule(c);
  const ChunkArgs from = data.chunk_args();  // to_c points into it
  gdn_chunk_args args = to_c(from);
  const auto context = sized<gdn_context>();
  char message[256];
  for (int32_t split : {GDN_CONTEXT_SPLIT_AUTO, GDN_CONTEXT_SPLIT_FIXED, GDN_CONTEXT_SPLIT_OFF}) {
    args.context_split = split;
    EXPECT_EQ(gdn_chunk(&context, &args, message, sizeof message), GDN_OK) << message;
  }
  args.context_split = 3;
  EXPECT_EQ(gdn_chunk(&context, &args, message, sizeof message), GDN_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(message).find("gdn.chunk: context_split is 3"), 0u) << message;
  args.context_split = 0;
  args.reserved = 1;
  EXPECT_EQ(gdn_chunk(&context, &args, message, sizeof message), GDN_INVALID_ARGUMENT);
}

TEST(CApi, MessagesAreCutToTheCallersBuffer) {
  Recurrent call;
  call.args.state_layout = 0;
  char message[8] = {'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x'};
  EXPECT_EQ(gdn_recurrent(&call.context, &call.args, message, 4), GDN_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(message, sizeof message), std::string("gdn\0xxxx", 8));
  EXPECT_EQ(gdn_recurrent(&call.context, &call.args, message, 0), GDN_INVALID_ARGUMENT);
  EXPECT_EQ(message[0], 'g');
  EXPECT_EQ(gdn_recurrent(&call.context, &call.args, nullptr, 8), GDN_INVALID_ARGUMENT);
}

TEST(CApi, TheContextReachesTheCall) {
  Recurrent plain;
  char message[256];
  plain.context.kernel = "scalar";
  ASSERT_EQ(gdn_recurrent(&plain.context, &plain.args, message, sizeof message), GDN_OK) << message;

  Recurrent call;
  call.context.kernel = "scalar";
  ASSERT_EQ(gdn_executor_create(3, &call.context.executor, message, sizeof message), GDN_OK);
  auto plan = sized<gdn_plan>();
  ASSERT_EQ(gdn_plan_recurrent(&call.context, &call.args, &plan, message, sizeof message), GDN_OK);
  EXPECT_EQ(plan.workers, 3);
  EXPECT_STREQ(plan.kernel, "scalar");
  ASSERT_GT(plan.workspace_bytes, 0u);
  verify::Buffer workspace(plan.workspace_bytes);
  call.context.workspace = workspace.data();
  call.context.workspace_bytes = plan.workspace_bytes - 1;
  EXPECT_NE(call.fails(GDN_INVALID_ARGUMENT).find("workspace has "), std::string::npos);
  call.context.workspace_bytes = plan.workspace_bytes;
  EXPECT_EQ(gdn_recurrent(&call.context, &call.args, message, sizeof message), GDN_OK) << message;
  EXPECT_EQ(call.out, plain.out);
  EXPECT_EQ(call.state, plain.state);
  gdn_executor_destroy(call.context.executor);

  call = Recurrent();
  call.context.kernel = "abacus";
  EXPECT_NE(call.fails(GDN_UNSUPPORTED).find("\"abacus\" is not in this build"), std::string::npos);
}

// Threads of the caller's: here one for every task.
struct Pool {
  int64_t tasks = 0;
  static void run(void* user, int64_t count, gdn_task task, void* closure) {
    static_cast<Pool*>(user)->tasks += count;
    for (int64_t i = 0; i < count; i += 2) {
      std::thread other([=] {
        if (i + 1 < count) task(closure, i + 1, 1);
      });
      task(closure, i, 0);
      other.join();
    }
  }
};

TEST(CApi, ExecutorsOfTheCallersOwn) {
  Recurrent plain, call;
  char message[256];
  ASSERT_EQ(gdn_recurrent(&plain.context, &plain.args, message, sizeof message), GDN_OK) << message;
  Pool pool;
  auto callbacks = sized<gdn_executor_callbacks>();
  callbacks.user = &pool;
  callbacks.run = &Pool::run;
  callbacks.max_workers = 2;
  ASSERT_EQ(gdn_executor_create_from(&callbacks, &call.context.executor, message, sizeof message),
            GDN_OK)
      << message;
  EXPECT_EQ(gdn_recurrent(&call.context, &call.args, message, sizeof message), GDN_OK) << message;
  EXPECT_GT(pool.tasks, 1);
  EXPECT_EQ(call.out, plain.out);
  EXPECT_EQ(call.state, plain.state);
  gdn_executor_destroy(call.context.executor);

  gdn_executor* none = nullptr;
  callbacks.max_workers = 0;
  EXPECT_EQ(gdn_executor_create_from(&callbacks, &none, message, sizeof message),
            GDN_INVALID_ARGUMENT);
  EXPECT_STREQ(message,
               "gdn_executor_create_from: callbacks.max_workers is 0, expected at least 1");
  callbacks.max_workers = 2;
  callbacks.run = nullptr;
  EXPECT_EQ(gdn_executor_create_from(&callbacks, &none, message, sizeof message),
            GDN_INVALID_ARGUMENT);
  EXPECT_STREQ(message, "gdn_executor_create_from: callbacks.run is NULL, expected a function");
  EXPECT_EQ(none, nullptr);
}

TEST(CApi, ListsTheKernelsOfCpp) {
  const auto all = kernels();
  ASSERT_EQ(gdn_kernel_count(), static_cast<int64_t>(all.size()));
  char message[256];
  auto kernel = sized<gdn_kernel>();
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(gdn_get_kernel(static_cast<int64_t>(i), &kernel, message, sizeof message), GDN_OK);
    EXPECT_EQ(kernel.name, all[i].name);
    EXPECT_EQ(kernel.backend, all[i].backend);
    EXPECT_EQ(kernel.description, all[i].description);  // whole
    EXPECT_EQ(kernel.supported, all[i].supported ? 1 : 0);
  }
  EXPECT_EQ(gdn_get_kernel(-1, &kernel, message, sizeof message), GDN_OUT_OF_RANGE);
  EXPECT_EQ(message,
            "gdn_get_kernel: index is -1, expected 0 to " + std::to_string(all.size() - 1));
  EXPECT_STREQ(gdn_version(), GDN_VERSION);
}

}  // namespace
}  // namespace gdn::tests
