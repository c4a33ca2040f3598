// The qwen35 command as its users see it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "process.h"
#include "qwen35_checkpoint.h"
#include "verify/safetensors.h"

namespace gdn::tests {
namespace {

const std::string kShipped = QWEN35_TEST_ROOT "/data/tiny-qwen35";

Output run(const std::string& arguments, const std::string& model = kShipped) {
  return run_process("'" QWEN35_COMMAND "' --model '" + model + "' " + arguments);
}

TEST(Qwen35Command, GreedyTextIsThatOfTransformers) {
  // The first sample in the model's README: the prompt and 400 bytes more.
  const std::string readme = contents(kShipped + "/README.md"), fence = "```text\n";
  const size_t begin = readme.find(fence, readme.find("greedy")) + fence.size();
  const std::string sample = readme.substr(begin, readme.find("\n```", begin) - begin);
  const std::string prompt = "And it came to pass";
  ASSERT_EQ(sample.size(), prompt.size() + 400);
  const Output output = run("--max-new-tokens 400 --prompt '" + prompt + "'");
  EXPECT_EQ(output.code, 0);
  EXPECT_EQ(output.out, sample + "\n");
  EXPECT_NE(output.err.find("prefill: 19 tokens"), std::string::npos) << output.err;
  EXPECT_NE(output.err.find("decode: 399 tokens"), std::string::npos) << output.err;
}

TEST(Qwen35Command, SeedDecidesTheText) {
  const std::string arguments =
      "--max-new-tokens 60 --temperature 0.8 --prompt 'CHAPTER V' --seed ";
  const Output first = run(arguments + "1"), again = run(arguments + "1 --threads 1");
  const Output other = run(arguments + "2");
  EXPECT_EQ(first.code, 0);
  EXPECT_EQ(first.out.rfind("CHAPTER V", 0), 0u);
  EXPECT_EQ(first.out, again.out);
  EXPECT_NE(first.out, other.out);
}

TEST(Qwen35Command, TokensAreBytesOfThePrompt) {
  EXPECT_EQ(run("--max-new-tokens 20 --tokens 72,101").out,
            run("--max-new-tokens 20 --prompt He").out);
}

TEST(Qwen35Command, LogitsAreWrittenForThePrompt) {
  const std::string path = ::testing::TempDir() + "qwen35_command_logits.safetensors";
  std::remove(path.c_str());
  const Output output = run("--max-new-tokens 0 --prompt Lo --logits '" + path + "'");
  EXPECT_EQ(output.code, 0) << output.err;
  EXPECT_EQ(output.out, "Lo\n");
  verify::SafetensorsFile file;
  ASSERT_TRUE(verify::SafetensorsFile::open(path, &file).ok());
  const TensorView ids = file.view("input_ids"), logits = file.view("logits");
  ASSERT_TRUE(ids.given() && logits.given());
  EXPECT_EQ(ids.dtype, DType::kI64);
  ASSERT_EQ(ids.size(), 2);
  EXPECT_EQ(static_cast<const int64_t*>(ids.data)[1], 'o');
  EXPECT_EQ(logits.dtype, DType::kF32);
  ASSERT_EQ(logits.rank, 2);
  EXPECT_EQ(logits.shape[0], 2);
  EXPECT_EQ(logits.shape[1], 260);
  std::remove(path.c_str());
}

TEST(Qwen35Command, ModelWithoutByteTokenizerTakesAndGivesIds) {
  const std::string folder = ::testing::TempDir() + "qwen35_command_ids";
  std::filesystem::create_directories(folder);
  random_checkpoints()[0].write(folder, 1);
  const Output output = run("--max-new-tokens 3 --tokens 5,100,0", folder);
  EXPECT_EQ(output.code, 0) << output.err;
  EXPECT_EQ(output.out.rfind("5 100 0 ", 0), 0u) << output.out;
  EXPECT_EQ(std::count(output.out.begin(), output.out.end(), ' '), 5) << output.out;
  const Output text = run("--prompt Hello", folder);
  EXPECT_EQ(text.code, 2);
  EXPECT_NE(text.err.find("no byte tokenizer: give --tokens"), std::string::npos) << text.err;
  std::filesystem::remove_all(folder);
}

TEST(Qwen35Command, MistakesAreOneLine) {
  struct Mistake {
    std::string arguments, what;
    int code = 2;
  };
  const std::vector<Mistake> mistakes = {
      {"", "expected --prompt or --tokens"},
      {"--prompt ''", "--prompt is empty"},
      {"--prompt a --tokens 1", "--tokens"},
      {"--temperature -1 --prompt a", "--temperature"},
      {"--max-new-tokens -1 --prompt a", "--max-new-tokens"},
      {"--no-such-flag", "--no-such-flag"},
      {"--tokens 3,260", "token 260, expected 0 to 259", 1},
      {"--prompt a --max-new-tokens 1 --logits /no/such/folder/x", "/no/such/folder/x: cannot be",
       1},
  };
  for (const auto& [arguments, what, code] : mistakes) {
    const Output output = run(arguments);
    EXPECT_EQ(output.code, code) << arguments;
    EXPECT_EQ(output.err.rfind("qwen35: ", 0), 0u) << output.err;
    EXPECT_NE(output.err.find(what), std::string::npos) << arguments << "\n says: " << output.err;
    EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
  }
  EXPECT_EQ(run("--prompt a", "/no/such/model").err,
            "qwen35: /no/such/model/config.json: cannot be opened\n");
}

TEST(Qwen35Command, HelpNamesEveryFlag) {
  const Output output = run("--help");
  EXPECT_EQ(output.code, 0);
  for (const char* flag : {"--model", "--prompt", "--tokens", "--max-new-tokens", "--temperature",
                           "--seed", "--logits", "--threads"}) {
    EXPECT_NE(output.out.find(flag), std::string::npos) << flag;
  }
}

}  // namespace
}  // namespace gdn::tests
