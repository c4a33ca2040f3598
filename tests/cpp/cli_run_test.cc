// `gdn run`: what it writes is, bit for bit, what the same call writes in this process; and what it
// says of mistakes.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cli_support.h"
#include "gdn/gdn.h"
#include "verify/arguments.h"
#include "verify/inputs.h"
#include "verify/safetensors.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::Random;
using verify::Tensor;
using Named = std::vector<std::pair<std::string, TensorView>>;

Tensor normal(DType dtype, std::vector<int64_t> shape, uint64_t seed) {
  Tensor tensor(dtype, std::move(shape));
  Random random(seed);
  for (int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, random.normal());
  return tensor;
}

class CliRunTest : public CliTest {
 protected:
  void TearDown() override {
    std::remove(in().c_str());
    std::remove(out().c_str());
  }
  static std::string in() { return path("in.safetensors"); }
  static std::string out() { return path("out.safetensors"); }
  static std::string line(const std::string& options) {
    return "run '" + in() + "' '" + out() + "' " + options;
  }

  // Every tensor that the arguments give, except `left_out`.
  template <class Args>
  static void write(Args args, const std::map<std::string, std::string>& metadata = {},
                    const std::string& left_out = "") {
    Named tensors;
    verify::for_each_input(args, [&](const char* name, TensorView& view) {
      if (view.given() && name != left_out) tensors.emplace_back(name, view);
    });
    ASSERT_TRUE(verify::write_safetensors(in(), tensors, metadata).ok());
  }

  // Runs the command on what was written, then the call here, then compares.
  template <class Call>
  static void expect_same(const std::string& options, const Call& call, const Named& expected) {
    const json result = json_of(line(options + " --threads 2 --json"));
    EXPECT_EQ(result.at("outputs").size(), expected.size());
    Context context;
    const Status status = call(context);
    ASSERT_TRUE(status.ok()) << status.message();
    verify::SafetensorsFile file;
    ASSERT_TRUE(verify::SafetensorsFile::open(out(), &file).ok());
    for (const auto& [name, view] : expected) {
      const TensorView got = file.view(name);
      ASSERT_TRUE(got.given()) << name;
      const Tensor wanted = Tensor::copy_of(view);
      const Tensor written = Tensor::copy_of(got);
      ASSERT_EQ(written.dtype(), wanted.dtype()) << name;
      ASSERT_EQ(written.shape(), wanted.shape()) << name;
      EXPECT_EQ(std::memcmp(written.buffer().data(), wanted.buffer().data(),
                            static_cast<size_t>(wanted.size() * size_of(wanted.dtype()))),
                0)
          << name;
    }
  }

  static Case some_case() {
    Case c;
    c.lengths = {70, 0, 3, 129};
    c.H = 2;
    c.HV = 4;
    c.K = 32;
    c.V = 48;
    c.dtype = DType::kBF16;
    c.indices = verify::Indices::kPool32;
    c.states = verify::States::kInPlace;
    c.layout = StateLayout::kKV;
    c.l2norm = true;
    c.gates = verify::Gates::kComputed;
    c.beta = verify::Beta::kFromB;
    return c;
  }
};

TEST_F(CliRunTest, ChunkOnAPoolWithCheckpoints) {
  Case c = some_case();
  c.checkpoint_every = 64;
  c.padding = verify::Padding::kNullSlot;
  c.neg_eigval = true;
  c.scale = 0.3;
  const verify::DeltaRuleData data = verify::make_delta_rule(c);
  ChunkArgs args = data.chunk_args();
  const Named outputs = {
      {"out", args.out}, {"final_state", args.final_state}, {"checkpoints", args.checkpoints}};
  write(args, {{"op", "chunk"},
               {"state_layout", "kv"},
               {"use_qk_l2norm", "1"},
               {"allow_neg_eigval", "true"},
               {"scale", "0.3"},
               {"format", "pt"},
               {"context_split", "fixed"},
               {"checkpoint_every", "64"}});
  const std::string null_slot = "--null-slot " + std::to_string(data.null_slot.value());
  expect_same(
      null_slot, [&](Context& context) { return chunk(context, args); }, outputs);
}

TEST_F(CliRunTest, CheckpointsFollowFromTheLengths) {
  Case c = some_case();
  c.indices = verify::Indices::kNone;
  c.states = verify::States::kSeparate;
  c.checkpoint_every = 64;
  const verify::DeltaRuleData data = verify::make_delta_rule(c);
  const ChunkArgs args = data.chunk_args();
  write(args, {}, "checkpoint_cu");
  const Tensor cu = Tensor::copy_of(args.checkpoint_cu);
  Tensor wide(DType::kI64, cu.shape());
  for (int64_t i = 0; i < cu.size(); ++i) wide.set_int(i, cu.get_int(i));
  expect_same("--op chunk --layout kv --l2norm --checkpoint-every 64",
              [&](Context& context) { return chunk(context, args); },
              {{"out", args.out},
               {"final_state", args.final_state},
               {"checkpoints", args.checkpoints},
               {"checkpoint_cu", wide.view()}});
}

TEST_F(CliRunTest, RecurrentWithAStatePerToken) {
  Case c = some_case();
  c.op = verify::Operator::kRecurrent;
  c.lengths = {4, 1, 3};
  c.indices = verify::Indices::kAccepted;
  const verify::DeltaRuleData data = verify::make_delta_rule(c);
  const RecurrentArgs args = data.recurrent_args();
  write(args);
  expect_same("--op recurrent --layout kv --l2norm",
              [&](Context& context) { return recurrent(context, args); },
              {{"out", args.out}, {"final_state", args.final_state}});
}

TEST_F(CliRunTest, Replay) {
  Case c = some_case();
  c.op = verify::Operator::kReplay;
  c.lengths = {4, 1, 3};
  const verify::ReplayData data = verify::make_replay(c);
  const ReplayVerifyArgs args = data.verify_args();
  write(args, {{"state_layout", "kv"}});
  expect_same("--op replay_verify --l2norm",
              [&](Context& context) { return replay_verify(context, args); },
              {{"out", args.out},
               {"state", args.state},
               {"record_k", args.record_k},
               {"record_v", args.record_v},
               {"record_g", args.record_g}});
  const ReplayCommitArgs commit = data.commit_args();
  write(commit, {{"state_layout", "kv"}});
  expect_same("--op replay_commit",
              [&](Context& context) { return replay_commit(context, commit); },
              {{"state", commit.state}});
}

TEST_F(CliRunTest, Gating) {
  const Tensor a = normal(DType::kBF16, {2, 5, 3}, 1), b = normal(DType::kBF16, {2, 5, 3}, 2);
  const Tensor A_log = normal(DType::kF32, {3}, 3), dt_bias = normal(DType::kF32, {3}, 4);
  const Tensor g(DType::kF32, {2, 5, 3}), beta(DType::kF32, {2, 5, 3});
  GatingArgs args;
  args.a = a.view(), args.b = b.view(), args.A_log = A_log.view(), args.dt_bias = dt_bias.view();
  args.g = g.view(), args.beta = beta.view();
  args.softplus_beta = 0.5f;
  args.softplus_threshold = 3;
  write(args);
  expect_same("--op gating --softplus-beta 0.5 --softplus-threshold 3",
              [&](Context& context) { return gating(context, args); },
              {{"g", args.g}, {"beta", args.beta}});
}

TEST_F(CliRunTest, Norms) {
  const Tensor x = normal(DType::kF16, {2, 5, 3, 40}, 1), z = normal(DType::kF16, x.shape(), 2);
  const Tensor weight = normal(DType::kF32, {40}, 3), y(DType::kF16, x.shape());
  L2normArgs l2;
  l2.x = x.view(), l2.y = y.view();
  l2.eps = 0.25;
  write(l2);
  expect_same("--op l2norm --eps 0.25", [&](Context& context) { return l2norm(context, l2); },
              {{"y", l2.y}});
  RmsNormGatedArgs rms;
  rms.x = x.view(), rms.z = z.view(), rms.weight = weight.view(), rms.y = y.view();
  rms.eps = 0.125;
  write(rms, {{"eps", "0.125"}});
  expect_same("--op rms_norm_gated", [&](Context& context) { return rms_norm_gated(context, rms); },
              {{"y", rms.y}});
}

TEST_F(CliRunTest, CausalConv1d) {
  const Tensor x = normal(DType::kBF16, {1, 9, 24}, 1), weight = normal(DType::kF32, {24, 4}, 2);
  const Tensor bias = normal(DType::kF32, {24}, 3), initial = normal(DType::kF32, {2, 24, 5}, 4);
  const Tensor y(DType::kBF16, x.shape()), final_state(DType::kF32, initial.shape());
  const int32_t cu[] = {0, 7, 9};
  CausalConv1dArgs args;
  args.x = x.view(), args.weight = weight.view(), args.bias = bias.view(), args.y = y.view();
  args.initial_state = initial.view(), args.final_state = final_state.view();
  args.cu_seqlens = TensorView(cu, {3});
  args.silu = true;
  write(args);
  expect_same("--op causal_conv1d --silu",
              [&](Context& context) { return causal_conv1d(context, args); },
              {{"y", args.y}, {"final_state", args.final_state}});
}

TEST_F(CliRunTest, SolveTril) {
  const Tensor lower = normal(DType::kBF16, {3, 2, 20, 20}, 1);
  const Tensor inverse(DType::kBF16, lower.shape()), residual(DType::kF32, {3, 2});
  SolveTrilArgs args;
  args.lower = lower.view(), args.inverse = inverse.view(), args.residual = residual.view();
  args.method = SolveMethod::kNeumann;
  args.iterations = 2;
  args.compute = Compute::kBF16;
  write(args);
  expect_same("--op solve_tril --method neumann --iterations 2 --compute bf16",
              [&](Context& context) { return solve_tril(context, args); },
              {{"inverse", args.inverse}, {"residual", args.residual}});
}

TEST_F(CliRunTest, TheCapturesRunAsTheyAre) {
  const json result = json_of("run '" GDN_DATA_DIR "/gdn_captures.safetensors' '" + out() +
                              "' --op recurrent --prefix layer0. --layout vk --l2norm "
                              "--no-final-state --kernel scalar --json");
  EXPECT_EQ(result.at("kernel"), "scalar");
  ASSERT_EQ(result.at("outputs").size(), 1u);
  EXPECT_EQ(result.at("outputs")[0].at("shape"), json({1, 1257, 4, 128}));
}

TEST_F(CliRunTest, Mistakes) {
  expect_mistake("run", "input");
  expect_mistake("run /nowhere '" + out() + "' --op chunk", "/nowhere");
  Case c;
  c.lengths = {5, 3};
  const verify::DeltaRuleData data = verify::make_delta_rule(c);
  const ChunkArgs args = data.chunk_args();
  write(args);
  expect_mistake(line(""), "--op");
  expect_mistake("run '" + in() + "' '" + in() + "' --op chunk --layout vk", "is the input");
  expect_mistake(line("--op chunks"), "perhaps chunk");
  expect_mistake(line("--op fourier"), "one of chunk, recurrent");
  expect_mistake(line("--op chunk"), "--layout vk or kv");
  expect_mistake(line("--op chunk --layout kk"), "expected vk or kv");
  expect_mistake(line("--op chunk --layout vk --scale big"), "--scale is \"big\"");
  expect_mistake(line("--op chunk --layout vk --eps 1"), "--eps is no option of chunk");
  expect_mistake(line("--op chunk --layout vk --chunk-size 0"), "gdn.chunk: chunk_size");
  expect_mistake(line("--op chunk --layout vk --context-split on"), "auto, fixed or off");
  expect_mistake(line("--op chunk --layout vk --kernel fpga"), "fpga");
  expect_mistake(line("--op chunk --layout vk --prefix layer0."), "\"layer0.q\"");
  expect_mistake(line("--op gating --no-final-state"), "no option of gating");
  expect_mistake(line("--op chunk --no-final-state"), "--layout vk or kv");
  expect_mistake(line("--op l2norm"), "argument of l2norm");
  expect_mistake("run '" + in() + "' /nowhere/out --op chunk --layout vk", "/nowhere/out");
  write(args, {{"state_layout", "vk"}, {"scael", "1"}});
  expect_mistake(line("--op chunk"), "perhaps \"scale\"");
  write(args, {{"state_layout", "square"}});
  expect_mistake(line("--op chunk"), "square");
  write(args, {{"state_layout", "vk"}}, "k");
  expect_mistake(line("--op chunk"), "\"k\", which chunk needs");
  ChunkArgs wrong = data.chunk_args();
  wrong.beta = wrong.v;
  write(wrong, {{"state_layout", "vk"}});
  expect_mistake(line("--op chunk"), "gdn.chunk: beta");
  // What a file says of lengths allocates no memory before it is checked.
  const int64_t far[] = {0, INT64_MIN, INT64_MAX}, rows[] = {0, 1000000000, 1000000000};
  wrong = data.chunk_args();
  wrong.cu_seqlens = TensorView(far, {3});
  write(wrong, {{"state_layout", "vk"}});
  expect_mistake(line("--op chunk --checkpoint-every 64"), "gdn.chunk: cu_seqlens[1]");
  wrong = data.chunk_args();
  wrong.checkpoint_cu = TensorView(rows, {3});
  write(wrong, {{"state_layout", "vk"}});
  expect_mistake(line("--op chunk --checkpoint-every 64"), "gdn.chunk: checkpoint");
  // A prefix that was left out, and a slip behind one.
  ASSERT_TRUE(verify::write_safetensors(in(), {{"layer0.q", args.q}}).ok());
  expect_mistake(line("--op chunk --layout vk"), "--prefix layer0. ");
  ASSERT_TRUE(
      verify::write_safetensors(in(), {{"layer0.q", args.q}, {"layer0.betta", args.q}}).ok());
  expect_mistake(line("--op chunk --layout vk --prefix layer0."), "perhaps \"beta\"");
  ASSERT_TRUE(verify::write_safetensors(in(), {{"q", args.q}, {"cu_seqlen", args.q}}).ok());
  expect_mistake(line("--op chunk --layout vk"), "perhaps \"cu_seqlens\"");
  const int32_t slots[] = {0, 1};
  wrong = data.chunk_args();
  wrong.initial_state = {};
  wrong.final_state_indices = TensorView(slots, {2});
  write(wrong, {{"state_layout", "vk"}});
  expect_mistake(line("--op chunk"), "pool");
}

}  // namespace
}  // namespace gdn::tests
