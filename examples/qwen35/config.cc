#include "config.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace qwen35 {
namespace {

using nlohmann::json;

json read_json(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  try {
    return json::parse(file);
  } catch (const json::exception& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

// The value of a key; the default where it is missing or null, as Transformers has it.
template <class T>
T get(const json& object, const char* key, T missing) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? missing : found->get<T>();
}

int64_t positive(const json& object, const char* key, int64_t missing) {
  const auto value = get<int64_t>(object, key, missing);
  if (value < 1) throw std::runtime_error(std::string(key) + " is not positive");
  return value;
}

void expect(bool fact, const char* message) {
  if (!fact) throw std::runtime_error(message);
}

// eos_token_id is a number, a list of them, or nothing.
std::vector<int64_t> read_end_ids(const json& object) {
  const json value = get<json>(object, "eos_token_id", json::array());
  return value.is_array() ? value.get<std::vector<int64_t>>() : std::vector{value.get<int64_t>()};
}

std::vector<Mixer> read_layers(const json& text) {
  const int64_t count = positive(text, "num_hidden_layers", 32);
  const int64_t interval = positive(text, "full_attention_interval", 4);
  std::vector<Mixer> layers;
  if (const json types = get<json>(text, "layer_types", json()); !types.is_null()) {
    for (const std::string type : types) {
      expect(type == "linear_attention" || type == "full_attention",
             "layer_types may name linear_attention and full_attention only");
      layers.push_back(type == "full_attention" ? Mixer::kFullAttention : Mixer::kLinearAttention);
    }
    expect(static_cast<int64_t>(layers.size()) == count,
           "layer_types has not num_hidden_layers entries");
  } else {
    for (int64_t i = 1; i <= count; ++i) {
      layers.push_back(i % interval == 0 ? Mixer::kFullAttention : Mixer::kLinearAttention);
    }
  }
  return layers;
}

// Defaults are those of Transformers' Qwen3_5TextConfig.
Config read(const json& root) {
  // A checkpoint that sees images keeps the text model's part apart.
  const json& text = root.contains("text_config") ? root["text_config"] : root;
  expect(get<int64_t>(text, "num_experts", 0) == 0, "a mixture of experts, not a dense model");
  expect(get<std::string>(text, "hidden_act", "silu") == "silu", "hidden_act is not silu");
  expect(get(text, "attn_output_gate", true), "attn_output_gate is false, which Qwen3.5 has not");

  Config config;
  config.vocab_size = positive(text, "vocab_size", 248320);
  config.hidden_size = positive(text, "hidden_size", 4096);
  config.intermediate_size = positive(text, "intermediate_size", 12288);
  config.norm_eps = get(text, "rms_norm_eps", 1e-6);
  config.tied_embeddings =
      get(root, "tie_word_embeddings", get(text, "tie_word_embeddings", false));
  config.layers = read_layers(text);
  config.end_ids = read_end_ids(text);

  auto& full = config.full;
  full.heads = positive(text, "num_attention_heads", 16);
  full.kv_heads = positive(text, "num_key_value_heads", 4);
  full.head_dim = positive(text, "head_dim", 256);
  full.bias = get(text, "attention_bias", false);
  expect(full.heads % full.kv_heads == 0,
         "num_attention_heads is no multiple of num_key_value_heads");
  const json rope = get<json>(text, "rope_parameters", get<json>(text, "rope_scaling", {}));
  expect(get<std::string>(rope, "rope_type", "default") == "default", "rope_type is not default");
  full.rope_theta = get(rope, "rope_theta", get(text, "rope_theta", 10000.0));
  const double rotary =
      get(rope, "partial_rotary_factor", get(text, "partial_rotary_factor", 0.25));
  full.rotary_dim = static_cast<int64_t>(static_cast<double>(full.head_dim) * rotary);
  expect(full.rotary_dim >= 0 && full.rotary_dim <= full.head_dim && full.rotary_dim % 2 == 0,
         "partial_rotary_factor gives no even number of rotary dimensions");

  auto& linear = config.linear;
  linear.H = positive(text, "linear_num_key_heads", 16);
  linear.HV = positive(text, "linear_num_value_heads", 32);
  linear.K = positive(text, "linear_key_head_dim", 128);
  linear.V = positive(text, "linear_value_head_dim", 128);
  linear.conv_width = positive(text, "linear_conv_kernel_dim", 4);
  return config;
}

}  // namespace

Config read_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  const json root = read_json(path);
  try {
    Config config = read(root);
    const std::string generation = folder + "/generation_config.json";
    if (std::ifstream(generation)) config.end_ids = read_end_ids(read_json(generation));
    return config;
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

}  // namespace qwen35
