// The `gdn` command as its users see it: help, exit codes, one line for a mistake, JSON that is
// JSON.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cli_support.h"
#include "gdn/gdn.h"
#include "verify/inputs.h"
#include "verify/safetensors.h"

namespace gdn::tests {
namespace {

using verify::Tensor;

TEST_F(CliTest, HelpIsThereWithAnExample) {
  const Output all = run("--help");
  EXPECT_EQ(all.code, 0);
  for (const char* command : {"info", "plan", "verify", "bench", "run", "tril"}) {
    EXPECT_NE(all.out.find(command), std::string::npos);
    const Output help = run(std::string(command) + " --help");
    EXPECT_EQ(help.code, 0);
    EXPECT_EQ(help.err, "");
    EXPECT_NE(help.out.find("Example"), std::string::npos) << help.out;
    EXPECT_NE(help.out.find(std::string("gdn ") + command + " "), std::string::npos) << help.out;
    EXPECT_NE(help.out.find("--json"), std::string::npos) << help.out;
  }
  EXPECT_EQ(run("--version").out, "gdn " GDN_VERSION "\n");
}

TEST_F(CliTest, WrongUseIsOneLineAndExitCodeTwo) {
  expect_mistake("", "subcommand");
  expect_mistake("speed", "speed");
  expect_mistake("info --frobnicate", "--frobnicate");
  expect_mistake("plan chunky", "chunky");
  expect_mistake("plan", "subcommand");
  expect_mistake("plan solve_tril --tokens 4", "--tokens");
  expect_mistake("plan l2norm --value-heads 4", "--value-heads");
  expect_mistake("plan solve_tril --size 257", "gdn.solve_tril: ");
  expect_mistake("plan causal_conv1d --width 9", "gdn.causal_conv1d: ");
  expect_mistake("plan chunk --tokens many", "--tokens");
  expect_mistake("plan chunk --tokens -3", "--tokens");
  expect_mistake("plan chunk --dtype fp33", "fp33");
  expect_mistake("plan chunk --heads 3", "gdn.chunk: ");
  expect_mistake("plan chunk --k 0", "gdn.chunk: ");
  expect_mistake("plan chunk --v 257", "gdn.chunk: ");
  expect_mistake("plan chunk --tokens 10000000 --sequences 60000", "memory");
  expect_mistake("plan l2norm --kernel fpga", "fpga");
  expect_mistake("plan chunk --context-split on", "--context-split");
  expect_mistake("plan recurrent --context-split off", "--context-split");
  expect_mistake("plan chunk --lengths 1,2 --tokens 3", "--tokens");
  expect_mistake("verify --kernel fpga", "expected one of");
  expect_mistake("verify --case 'op=chunk K=999'", "K and V");
  expect_mistake("verify --case 'colour=red'", "colour");
  expect_mistake("verify --shape T=10,Q=3", "Q=3");
  expect_mistake("verify --shape HV=0", "--shape");
  expect_mistake("verify --data /nowhere", "/nowhere");
  expect_mistake("verify --file /nowhere", "/nowhere");
  expect_mistake("verify --layout vk", "--file");
  expect_mistake("verify --seed x", "--seed");
  expect_mistake("bench --ops chunk", "--ops");
  expect_mistake("bench --kernel fpga", "fpga");
  expect_mistake("bench --shape H=3,HV=4", "HV");
  expect_mistake("bench --tokens 0", "--tokens");
  expect_mistake("bench --min-time soon", "--min-time");
  expect_mistake("bench --threads 1000000", "--threads");
}

TEST_F(CliTest, InfoListsEveryKernelAndTheChosenOne) {
  const json info = json_of("info --json");
  EXPECT_EQ(info.at("version"), GDN_VERSION);
  EXPECT_EQ(info.at("kernels").size(), kernels().size());
  int chosen = 0;
  for (const json& kernel : info.at("kernels")) {
    if (!kernel.at("chosen")) continue;
    ++chosen;
    EXPECT_TRUE(kernel.at("supported"));
    EXPECT_EQ(kernel.at("name"), info.at("kernel"));
  }
  EXPECT_EQ(chosen, 1);
  const Output text = run("info");
  EXPECT_EQ(text.code, 0);
  EXPECT_EQ(text.err, "");
  for (const KernelInfo& kernel : kernels()) {
    EXPECT_NE(text.out.find(kernel.name), std::string::npos);
  }
}

TEST_F(CliTest, PlanSaysWhatTheLibraryPlans) {
  const json planned =
      json_of("plan chunk --tokens 100 --sequences 3 --threads 2 --kernel scalar --json");
  EXPECT_EQ(planned.at("op"), "gdn.chunk");
  EXPECT_EQ(planned.at("kernel"), "scalar");
  EXPECT_EQ(planned.at("workers"), 2);
  EXPECT_EQ(planned.at("workspace_bytes"),
            2 * planned.at("workspace_bytes_per_worker").get<int64_t>());
  for (const char* split : {"auto", "fixed", "off"}) {
    // The CPU splits nothing.
    const json one =
        json_of(std::string("plan chunk --tokens 9000 --json --context-split ") + split);
    EXPECT_EQ(one.at("first_segment_tokens"), 0);
    EXPECT_EQ(one.at("segment_tokens"), 0);
  }
  for (const char* op : {"chunk", "recurrent", "replay_verify", "replay_commit", "gating", "l2norm",
                         "rms_norm_gated", "causal_conv1d", "solve_tril"}) {
    const json one = json_of(std::string("plan ") + op + " --json");
    EXPECT_EQ(one.at("op"), std::string("gdn.") + op);
    EXPECT_GT(one.at("tasks"), 0);
    EXPECT_EQ(run(std::string("plan ") + op + " --help").code, 0);
  }
  EXPECT_EQ(json_of("plan chunk --lengths 5,0,70 --json").at("op"), "gdn.chunk");
  EXPECT_NE(run("plan chunk --dtype bf16").out.find("gdn.chunk on cpu: kernel"), std::string::npos);
}

TEST_F(CliTest, VerifyRepeatsACase) {
  const std::string line = "verify --kernel reference --case 'op=chunk lengths=5,0,9 HV=2 seed=3'";
  const json result = json_of(line + " --json");
  EXPECT_TRUE(result.at("ok"));
  EXPECT_EQ(result.at("checks"), 1);
  const json& row = result.at("results").at(0);
  EXPECT_EQ(row.at("kernel"), "reference");
  EXPECT_EQ(row.at("op"), "chunk");
  EXPECT_LE(row.at("tensors").at(0).at("relative_error"),
            row.at("tensors").at(0).at("relative_bound"));
  const Output text = run(line);
  EXPECT_EQ(text.code, 0);
  EXPECT_EQ(text.err, "");
  EXPECT_NE(text.out.find("within its bound"), std::string::npos) << text.out;
}

TEST_F(CliTest, QuickVerificationHoldsOnEveryKernel) {
  const json result = json_of("verify --quick --json");
  EXPECT_TRUE(result.at("ok"));
  EXPECT_EQ(result.at("broken"), 0);
  EXPECT_FALSE(result.at("captures").is_null());
  std::set<std::pair<std::string, std::string>> seen;
  for (const json& row : result.at("results")) {
    seen.emplace(row.at("op").get<std::string>(), row.at("kernel").get<std::string>());
  }
  for (const char* op : {"chunk", "recurrent", "replay", "gating", "l2norm", "solve_tril"}) {
    for (const json& kernel : result.at("kernels")) {
      EXPECT_TRUE(seen.count({op, kernel.get<std::string>()})) << op << " on " << kernel;
    }
  }
}

TEST_F(CliTest, ASummaryHasARowForEachOperatorAndKernel) {
  const Output text = run("verify --shape T=20,H=1,HV=2,K=32,V=32 --kernel scalar --summary");
  EXPECT_EQ(text.code, 0);
  int rows = 0;
  for (size_t at = 0; (at = text.out.find("  scalar ", at)) != std::string::npos; ++at) ++rows;
  EXPECT_EQ(rows, 2) << text.out;  // chunk and recurrent
}

// A file with inputs and expectations, as a user would write one.
class CliFileTest : public CliTest {
 protected:
  void SetUp() override {
    verify::Case c;
    c.lengths = {5, 0, 20};
    c.HV = 2;
    c.K = 16;
    c.V = 24;
    data_ = verify::make_delta_rule(c);
    Context context;
    context.kernel = "reference";
    ASSERT_TRUE(chunk(context, data_.chunk_args()).ok());
  }
  void TearDown() override { std::remove(file().c_str()); }
  static std::string file() { return path("call.safetensors"); }

  void write(const TensorView& q, const std::map<std::string, std::string>& metadata) {
    ASSERT_TRUE(verify::write_safetensors(file(),
                                          {{"q", q},
                                           {"k", data_.k.view()},
                                           {"v", data_.v.view()},
                                           {"g", data_.g.view()},
                                           {"beta", data_.beta.view()},
                                           {"cu_seqlens", data_.cu_seqlens.view()},
                                           {"initial_state", data_.initial_state.view()},
                                           {"out_expected", data_.out.view()},
                                           {"final_state_expected", data_.final_state.view()}},
                                          metadata)
                    .ok());
  }

  verify::DeltaRuleData data_;
  const std::string verify_ = "verify --kernel reference --file '" + file() + "'";
};

TEST_F(CliFileTest, RightExpectationsHold) {
  write(data_.q.view(), {{"state_layout", "vk"}});
  const json result = json_of(verify_ + " --json");
  EXPECT_TRUE(result.at("ok"));
  EXPECT_EQ(result.at("checks"), 4);  // two operators, the reference and the file
}

TEST_F(CliFileTest, ABrokenBoundIsExitCodeOne) {
  data_.out.set(7, data_.out.get(7) + 0.01);
  write(data_.q.view(), {});
  const json result = json_of(verify_ + " --layout vk --json", 1);
  EXPECT_FALSE(result.at("ok"));
  EXPECT_EQ(result.at("broken"), 2);
  const Output text = run(verify_ + " --layout vk");
  EXPECT_EQ(text.code, 1);
  EXPECT_NE(text.out.find("BROKEN"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("again: gdn verify --file"), std::string::npos) << text.out;

  data_.out.set(7, std::nan(""));
  write(data_.q.view(), {});
  json_of(verify_ + " --layout vk --json", 1);
}

TEST_F(CliFileTest, FilesThatAreNoCallAreMistakes) {
  write(data_.q.view(), {});
  expect_mistake(verify_, "state_layout");
  expect_mistake(verify_ + " --layout vk --prefix layer9.", "layer9.q");
  write(data_.v.view(), {{"state_layout", "vk"}});
  expect_mistake(verify_, "gdn.chunk: ");
  write(data_.q.view(), {{"state_layout", "vk"}, {"scale", "large"}});
  expect_mistake(verify_, "scale");
  ASSERT_TRUE(verify::write_safetensors(file(), {{"Q", data_.q.view()}}).ok());
  expect_mistake(verify_, "\"Q\"");
  ASSERT_TRUE(verify::write_safetensors(file(), {{"q", data_.q.view()}}).ok());
  expect_mistake(verify_, "\"k\"");
  std::ofstream(file(), std::ios::binary) << "no safetensors file";
  expect_mistake(verify_, "byte");
}

TEST_F(CliTest, BenchMeasuresWhatItSays) {
  const json result = json_of(
      "bench --kernel scalar --threads 2 --tokens 20 --lengths 3,0,9 --sequences 2 --shape "
      "H=1,HV=2,K=32,V=32 --min-time 0.002 --json");
  EXPECT_EQ(result.at("threads"), 2);
  // Two dtypes: prefill, packed, decode, convolution, norm.
  ASSERT_EQ(result.at("results").size(), 10u);
  for (const json& row : result.at("results")) {
    EXPECT_EQ(row.at("kernel"), "scalar");
    EXPECT_GT(row.at("ms").at("min"), 0);
    EXPECT_LE(row.at("ms").at("min"), row.at("ms").at("p10"));
    EXPECT_LE(row.at("ms").at("p10"), row.at("ms").at("median"));
    EXPECT_LE(row.at("ms").at("median"), row.at("ms").at("p90"));
    EXPECT_GT(row.at("tokens_per_second"), 0);
    EXPECT_GT(row.at("share_of_peak"), 0);
    const bool prefill = row.at("op") == "prefill";
    EXPECT_TRUE(row.contains(prefill ? "gflop_per_second" : "gbyte_per_second"));
  }
  const Output text =
      run("bench --ops decode --sequences 2 --dtype bf16 --shape H=1,HV=2,K=32,V=32 --min-time "
          "0.002");
  EXPECT_EQ(text.code, 0);
  EXPECT_EQ(text.err, "");
  EXPECT_NE(text.out.find("decode 2"), std::string::npos);
}

}  // namespace
}  // namespace gdn::tests
