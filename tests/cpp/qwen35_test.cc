// examples/qwen35: its text and its logits against Transformers', and prefill against decode on
// random models of other shapes.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "model.h"
#include "qwen35_checkpoint.h"
#include "sampling.h"
#include "tokenizer.h"
#include "verify/safetensors.h"

namespace qwen35 {
namespace {

const std::string kShipped = QWEN35_TEST_ROOT "/data/tiny-qwen35";

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Output {
  int code = -1;
  std::string text;
};

// What the command says on stdout, and on stderr if asked for.
Output run(const std::string& arguments, bool with_stderr = false) {
  const std::string command =
      std::string(QWEN35_COMMAND " ") + arguments + (with_stderr ? " 2>&1" : " 2>/dev/null");
  Output output;
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return output;
  std::array<char, 4096> buffer;
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    output.text.append(buffer.data(), n);
  }
  output.code = WEXITSTATUS(pclose(pipe));
  return output;
}

double largest(const Values& x) {
  double most = 0;
  for (const float value : x) most = std::max(most, std::abs(static_cast<double>(value)));
  return most;
}

// NaN where one of them is.
double largest_difference(const Values& x, const Values& y) {
  EXPECT_EQ(x.size(), y.size());
  double most = 0;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    const double difference = std::abs(static_cast<double>(x[i]) - y[i]);
    if (!(difference <= most)) most = difference;
    if (std::isnan(most)) return most;
  }
  return most;
}

class Qwen35 : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "qwen35_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
};

using Qwen35Deathless = Qwen35;

TEST_F(Qwen35, GreedyTextIsThatOfTransformers) {
  // The first sample of the model's README: the prompt and 400 bytes more.
  const std::string readme = contents(kShipped + "/README.md");
  const std::string fence = "```text\n";
  const size_t begin = readme.find(fence, readme.find("greedy")) + fence.size();
  const std::string sample = readme.substr(begin, readme.find("\n```", begin) - begin);
  const std::string prompt = "And it came to pass";
  ASSERT_EQ(sample.size(), prompt.size() + 400);
  const Output output =
      run("--model '" + kShipped + "' --max-new-tokens 400 --prompt '" + prompt + "'");
  EXPECT_EQ(output.code, 0);
  EXPECT_EQ(output.text, sample + "\n");
}

TEST_F(Qwen35, LogitsAreThoseOfTransformers) {
  gdn::verify::SafetensorsFile expected, written;
  const std::string path = QWEN35_TEST_ROOT "/tests/data/qwen35_logits.safetensors";
  ASSERT_TRUE(gdn::verify::SafetensorsFile::open(path, &expected).ok());
  const gdn::TensorView ids = expected.view("input_ids"), logits = expected.view("logits");
  ASSERT_TRUE(ids.given() && logits.given());
  std::string list;
  for (int64_t i = 0; i < ids.size(); ++i) {
    list += (i > 0 ? "," : "") + std::to_string(static_cast<const int64_t*>(ids.data)[i]);
  }
  const std::string file = folder_ + "/logits.safetensors";
  const Output output = run("--model '" + kShipped + "' --max-new-tokens 0 --logits '" + file +
                            "' --tokens " + list);
  EXPECT_EQ(output.code, 0);
  ASSERT_TRUE(gdn::verify::SafetensorsFile::open(file, &written).ok());
  const gdn::TensorView ours = written.view("logits");
  ASSERT_EQ(ours.size(), logits.size());
  const auto values = [](const gdn::TensorView& view) {
    const auto* p = static_cast<const float*>(view.data);
    return Values(p, p + view.size());
  };
  EXPECT_LE(largest_difference(values(ours), values(logits)), 1e-4);
}

// A random model is read, prefilled, and decoded token by token, which no two of its parts do
// alike.
class RandomModel : public Qwen35, public ::testing::WithParamInterface<RandomCheckpoint> {};

TEST_F(Qwen35, SamplingFollowsTheTemperature) {
  const std::vector<float> logits = {1.0f, 3.0f, 2.0f, -1.0f};
  EXPECT_EQ(Sampler(0, 1).choose(logits), 1);
  const double temperature = 0.8;
  std::vector<double> expected;
  for (const float logit : logits) expected.push_back(std::exp(logit / temperature));
  const double sum = std::accumulate(expected.begin(), expected.end(), 0.0);
  const int draws = 20000;
  std::vector<int> counts(logits.size());
  Sampler sampler(temperature, 7);
  for (int i = 0; i < draws; ++i) ++counts[static_cast<size_t>(sampler.choose(logits))];
  for (size_t i = 0; i < logits.size(); ++i) {
    const double p = expected[i] / sum;
    EXPECT_NEAR(counts[i], draws * p, 5 * std::sqrt(draws * p * (1 - p)) + 1);
  }
}
}  // namespace
}  // namespace qwen35
