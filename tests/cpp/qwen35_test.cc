// examples/qwen35: logits against Transformers', prefill against decode on random models, and what
// it says of checkpoints that it cannot run.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "model.h"
#include "qwen35_checkpoint.h"
#include "sampling.h"
#include "verify/safetensors.h"

namespace gdn::tests {
namespace {

using qwen35::Model;
using qwen35::Values;

const std::string kShipped = QWEN35_TEST_ROOT "/data/tiny-qwen35";

// A folder for one test.
class Folder {
 public:
  Folder() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name = std::string("qwen35_") + test->test_suite_name() + "_" + test->name();
    std::replace(name.begin(), name.end(), '/', '_');
    path_ = ::testing::TempDir() + name;
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::vector<int64_t> random_tokens(size_t count, int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int64_t> draw(0, vocab - 1);
  std::vector<int64_t> tokens(count);
  for (int64_t& token : tokens) token = draw(random);
  return tokens;
}

// Infinite where one of them is NaN or the sizes differ.
double largest_difference(const Values& x, const Values& y) {
  const double infinity = std::numeric_limits<double>::infinity();
  if (x.size() != y.size()) return infinity;
  double most = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double difference = std::abs(static_cast<double>(x[i]) - y[i]);
    if (std::isnan(difference)) return infinity;
    most = std::max(most, difference);
  }
  return most;
}

bool same_bits(const Values& x, const Values& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

// Two float32 ways to logits of the order of 1 (random models: 4e-6 to 5e-5 over eight seeds) or 20
// (the shipped one: 3e-5).
constexpr double kLogitBound = 1e-4;

void append(const Values& from, Values* to) { to->insert(to->end(), from.begin(), from.end()); }

Values decode(Model* model, const std::vector<int64_t>& tokens, int32_t slot) {
  Values logits;
  for (const int64_t token : tokens) {
    append(model->forward({&token, 1}, Model::Logits::kLast, slot), &logits);
  }
  return logits;
}

TEST(Qwen35, LogitsAreThoseOfTransformers) {
  verify::SafetensorsFile expected;
  const std::string path = QWEN35_TEST_ROOT "/tests/data/qwen35_logits.safetensors";
  ASSERT_TRUE(verify::SafetensorsFile::open(path, &expected).ok());
  const TensorView ids = expected.view("input_ids"), logits = expected.view("logits");
  ASSERT_TRUE(ids.given() && logits.given());
  const auto* first = static_cast<const int64_t*>(ids.data);
  const std::vector<int64_t> tokens(first, first + ids.size());
  const auto* values = static_cast<const float*>(logits.data);

  Model model(kShipped);
  const Values ours = model.forward(tokens, Model::Logits::kAll);
  EXPECT_LE(largest_difference(ours, Values(values, values + logits.size())), kLogitBound);
}

// A prompt goes in pieces; this one is cut at 512 tokens.
TEST(Qwen35, LongPromptInPiecesIsDecodeTokenByToken) {
  Model model(kShipped, 0, 2);
  const auto tokens = random_tokens(600, 256, 1);
  const Values prefilled = model.forward(tokens, Model::Logits::kAll, 0);
  EXPECT_LE(largest_difference(prefilled, decode(&model, tokens, 1)), kLogitBound);
}

class RandomModel : public ::testing::TestWithParam<RandomCheckpoint> {
 protected:
  void SetUp() override { GetParam().write(folder_.path(), 3); }
  std::vector<int64_t> tokens(size_t count, uint32_t seed) const {
    return random_tokens(count, GetParam().config.at("vocab_size").get<int64_t>(), seed);
  }
  const std::string& path() const { return folder_.path(); }

 private:
  Folder folder_;
};

// Two ways through every layer: chunk and recurrent, attention over many queries and over one.
TEST_P(RandomModel, PrefillIsDecodeTokenByToken) {
  Model model(path(), 0, 2);
  const auto text = tokens(150, 4);
  const Values prefilled = model.forward(text, Model::Logits::kAll, 0);
  EXPECT_EQ(prefilled.size(), text.size() * static_cast<size_t>(model.config().vocab_size));
  EXPECT_LE(largest_difference(prefilled, decode(&model, text, 1)), kLogitBound);
}

TEST_P(RandomModel, PromptMayComeInParts) {
  Model model(path(), 0, 2);
  const auto text = tokens(150, 5);
  const Values whole = model.forward(text, Model::Logits::kAll, 0);
  Values parts;
  size_t at = 0;
  for (const size_t count : {37, 1, 64, 1, 1, 46}) {
    append(model.forward({&text[at], count}, Model::Logits::kAll, 1), &parts);
    at += count;
  }
  ASSERT_EQ(at, text.size());
  EXPECT_LE(largest_difference(whole, parts), kLogitBound);
}

TEST_P(RandomModel, OtherSequencesChangeNothing) {
  const auto text = tokens(70, 6), other = tokens(70, 7);
  const size_t prompt = 65;
  Model alone(path(), 0, 3);
  Values expected = alone.forward({text.data(), prompt}, Model::Logits::kAll, 1);
  for (size_t i = prompt; i < text.size(); ++i) {
    append(alone.forward({&text[i], 1}, Model::Logits::kLast, 1), &expected);
  }
  // Another text was in this slot, and is in those beside it.
  Model among(path(), 0, 3);
  among.forward(other, Model::Logits::kLast, 1);
  among.restart(1);
  among.forward(other, Model::Logits::kLast, 0);
  Values logits = among.forward({text.data(), prompt}, Model::Logits::kAll, 1);
  for (size_t i = prompt; i < text.size(); ++i) {
    among.forward({&other[i], 1}, Model::Logits::kLast, 2);
    append(among.forward({&text[i], 1}, Model::Logits::kLast, 1), &logits);
  }
  EXPECT_TRUE(same_bits(expected, logits));
}

TEST_P(RandomModel, ThreadsChangeNoBit) {
  const auto text = tokens(150, 8);
  const std::vector<int64_t> next = tokens(5, 9);
  Values one;
  for (const int threads : {1, 2, 5}) {
    Model model(path(), threads);
    Values logits = model.forward(text, Model::Logits::kAll);
    append(decode(&model, next, 0), &logits);
    if (threads == 1) {
      one = logits;
    } else {
      EXPECT_TRUE(same_bits(one, logits)) << threads << " threads";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Qwen35, RandomModel, ::testing::ValuesIn(random_checkpoints()),
                         [](const auto& test) { return test.param.name; });

// What is wrong with a checkpoint is said by the name that it has there.
class Qwen35Mistake : public ::testing::Test {
 protected:
  void expect(const RandomCheckpoint& spec, const std::string& what) {
    spec.write(folder_.path(), 3);
    expect_error(what);
  }
  void expect_error(const std::string& what) {
    try {
      Model model(folder_.path());
      ADD_FAILURE() << "no error; wanted: " << what;
    } catch (const std::runtime_error& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos)
          << "says: " << error.what() << "\nwanted: " << what;
    }
  }
  RandomCheckpoint spec_ = random_checkpoints()[0];
  Folder folder_;
};

TEST_F(Qwen35Mistake, InTheConfig) {
  expect_error("config.json: cannot be opened");
  const nlohmann::json good = spec_.config;
  const std::vector<std::pair<nlohmann::json, std::string>> mistakes = {
      {{{"num_experts", 8}}, "a mixture of experts"},
      {{{"hidden_act", "gelu"}}, "hidden_act is not silu"},
      {{{"attn_output_gate", false}}, "attn_output_gate is false"},
      {{{"num_key_value_heads", 3}}, "num_attention_heads is no multiple"},
      {{{"rope_parameters", {{"rope_type", "yarn"}}}}, "rope_type is not default"},
      {{{"rope_parameters", {{"partial_rotary_factor", 1.5}}}}, "rotary dimensions"},
      {{{"full_attention_interval", 0}}, "full_attention_interval is not positive"},
      {{{"head_dim", "wide"}}, "type must be number"},
  };
  spec_.write(folder_.path(), 3);
  for (const auto& [change, what] : mistakes) {
    nlohmann::json config = good;
    config.update(change);
    std::ofstream(folder_.path() + "/config.json") << config;
    expect_error(what);
  }
  for (const auto& types : {nlohmann::json{"linear_attention"},
                            nlohmann::json{"linear_attention", "linear_attention",
                                           "linear_attention", "sliding_attention"}}) {
    nlohmann::json config = good;
    config["layer_types"] = types;
    std::ofstream(folder_.path() + "/config.json") << config;
    expect_error("layer_types");
  }
  std::ofstream(folder_.path() + "/config.json") << "{";
  expect_error("parse error");
}

TEST_F(Qwen35Mistake, InTheWeights) {
  spec_.without_tensor = "model.layers.1.linear_attn.A_log";
  expect(spec_, "tensor model.layers.1.linear_attn.A_log is in none of the model's files");
  spec_.without_tensor = "lm_head.weight";
  expect(spec_, "tensor lm_head.weight is in none");
  spec_.without_tensor = "model.embed_tokens.weight";
  expect(spec_, "embed_tokens.weight is in none");
  spec_.without_tensor.clear();
  spec_.write(folder_.path(), 3);
  spec_.config["linear_key_head_dim"] = 32;
  std::ofstream(folder_.path() + "/config.json") << spec_.config;
  expect_error("in_proj_qkv.weight has shape [512,64], expected [384,64]");
  std::filesystem::remove(folder_.path() + "/model.safetensors");
  expect_error("model.safetensors: cannot be opened");
  std::ofstream(folder_.path() + "/model.safetensors.index.json") << "{}";
  expect_error("weight_map");
}

TEST(Qwen35, TokensOutsideTheVocabularyAreRefused) {
  Model model(kShipped);
  for (const int64_t token : {int64_t{-1}, int64_t{260}}) {
    EXPECT_THROW(model.forward({&token, 1}), std::runtime_error);
  }
}

TEST(Qwen35, SamplingFollowsTheTemperature) {
  const std::vector<float> logits = {1.0f, 3.0f, 2.0f, -1.0f};
  EXPECT_EQ(qwen35::Sampler(0, 1).choose(logits), 1);
  const double temperature = 0.8;
  std::vector<double> weights;
  for (const float logit : logits) weights.push_back(std::exp(logit / temperature));
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const int draws = 20000;
  std::vector<int> counts(logits.size());
  qwen35::Sampler sampler(temperature, 7), again(temperature, 7);
  for (int i = 0; i < draws; ++i) {
    const int64_t token = sampler.choose(logits);
    ASSERT_EQ(token, again.choose(logits));
    ++counts[static_cast<size_t>(token)];
  }
  for (size_t i = 0; i < logits.size(); ++i) {
    const double p = weights[i] / sum;
    EXPECT_NEAR(counts[i], draws * p, 5 * std::sqrt(draws * p * (1 - p)) + 1);
  }
}

}  // namespace
}  // namespace gdn::tests
