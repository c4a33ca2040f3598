#include "qwen35_checkpoint.h"

#include <cmath>
#include <fstream>
#include <map>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "src/half.h"
#include "verify/safetensors.h"

namespace gdn::tests {
namespace {

using nlohmann::json;

struct Stored {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;

  TensorView view() const {
    TensorView view(bytes.data(), dtype, {});
    view.rank = static_cast<int>(shape.size());
    int64_t stride = 1;
    for (size_t i = shape.size(); i-- > 0; stride *= shape[i]) {
      view.shape[i] = shape[i];
      view.strides[i] = stride;
    }
    return view;
  }
};

// Draws the tensors of a text model in the order in which they stand in it.
class Writer {
 public:
  Writer(const RandomCheckpoint& spec, uint32_t seed) : spec_(spec), random_(seed) {
    const auto dim = [&](const char* key) { return spec.config.at(key).get<int64_t>(); };
    const std::string model = spec.nested ? "model.language_model." : "model.";
    const int64_t hidden = dim("hidden_size"), vocab = dim("vocab_size");
    const int64_t intermediate = dim("intermediate_size"), layers = dim("num_hidden_layers");
    // Tied, it is the output matrix too, and drawn as one: logits are of the order of 1 always.
    const bool tied = spec.config.at("tie_word_embeddings").get<bool>();
    matrix(model + "embed_tokens.weight", {vocab, hidden},
           tied ? 1 / std::sqrt(double(hidden)) : 1);
    for (int64_t i = 0; i < layers; ++i) {
      const std::string at = model + "layers." + std::to_string(i) + ".";
      norm(at + "input_layernorm.weight", hidden, 0);
      if (is_full(i)) {
        full_attention(at + "self_attn.");
      } else {
        linear_attention(at + "linear_attn.");
      }
      norm(at + "post_attention_layernorm.weight", hidden, 0);
      linear(at + "mlp.gate_proj", intermediate, hidden);
      linear(at + "mlp.up_proj", intermediate, hidden);
      linear(at + "mlp.down_proj", hidden, intermediate);
    }
    norm(model + "norm.weight", hidden, 0);
    if (!tied) linear("lm_head", vocab, hidden);
    // What a text model has no use for.
    if (spec.nested) matrix("model.visual.patch_embed.proj.weight", {4, 4}, 1);
    linear("mtp.fc", 4, 4);
    tensors_.erase(spec.without_tensor);
  }

  const std::map<std::string, Stored>& tensors() const { return tensors_; }

 private:
  bool is_full(int64_t layer) const {
    const json& config = spec_.config;
    if (config.contains("layer_types")) {
      return config["layer_types"][static_cast<size_t>(layer)] == "full_attention";
    }
    return (layer + 1) % config.value("full_attention_interval", 4) == 0;
  }

  void linear_attention(const std::string& at) {
    const auto dim = [&](const char* key) { return spec_.config.at(key).get<int64_t>(); };
    const int64_t hidden = dim("hidden_size"), HV = dim("linear_num_value_heads");
    const int64_t keys = dim("linear_num_key_heads") * dim("linear_key_head_dim");
    const int64_t V = dim("linear_value_head_dim"), values = HV * V;
    const int64_t width = dim("linear_conv_kernel_dim");
    linear(at + "in_proj_qkv", 2 * keys + values, hidden);
    linear(at + "in_proj_z", values, hidden);
    linear(at + "in_proj_b", HV, hidden);
    linear(at + "in_proj_a", HV, hidden);
    matrix(at + "conv1d.weight", {2 * keys + values, 1, width}, 1 / std::sqrt(double(width)));
    // Decays from nearly none to nearly all.
    uniform(at + "A_log", HV, -3, 2);
    uniform(at + "dt_bias", HV, -3, 0);
    norm(at + "norm.weight", V, 1);
    linear(at + "out_proj", hidden, values);
  }

  void full_attention(const std::string& at) {
    const auto dim = [&](const char* key) { return spec_.config.at(key).get<int64_t>(); };
    const int64_t hidden = dim("hidden_size"), head = dim("head_dim");
    const int64_t q = dim("num_attention_heads") * head, kv = dim("num_key_value_heads") * head;
    const bool bias = spec_.config.value("attention_bias", false);
    linear(at + "q_proj", 2 * q, hidden, bias);
    linear(at + "k_proj", kv, hidden, bias);
    linear(at + "v_proj", kv, hidden, bias);
    norm(at + "q_norm.weight", head, 0);
    norm(at + "k_norm.weight", head, 0);
    linear(at + "o_proj", hidden, q, bias);
  }

  void linear(const std::string& name, int64_t out, int64_t in, bool bias = false) {
    matrix(name + ".weight", {out, in}, 1 / std::sqrt(double(in)));
    if (bias) matrix(name + ".bias", {out}, 0.1);
  }
  void matrix(const std::string& name, std::vector<int64_t> shape, double scale) {
    std::normal_distribution<double> draw(0, scale);
    add(name, std::move(shape), spec_.dtype, draw);
  }
  void norm(const std::string& name, int64_t size, double middle) {
    std::normal_distribution<double> draw(middle, 0.2);
    add(name, {size}, DType::kF32, draw);
  }
  void uniform(const std::string& name, int64_t size, double from, double to) {
    std::uniform_real_distribution<double> draw(from, to);
    add(name, {size}, DType::kF32, draw);
  }

  template <class Draw>
  void add(const std::string& name, std::vector<int64_t> shape, DType dtype, Draw& draw) {
    Stored tensor{dtype, std::move(shape), {}};
    int64_t size = 1;
    for (const int64_t extent : tensor.shape) size *= extent;
    tensor.bytes.resize(static_cast<size_t>(size * size_of(dtype)));
    for (int64_t i = 0; i < size; ++i) {
      store_float(&tensor.bytes[static_cast<size_t>(i * size_of(dtype))], dtype,
                  static_cast<float>(draw(random_)));
    }
    tensors_[name] = std::move(tensor);
  }

  const RandomCheckpoint& spec_;
  std::mt19937 random_;
  std::map<std::string, Stored> tensors_;
};

void write_json(const std::string& path, const json& value) {
  std::ofstream(path) << value.dump(1) << "\n";
}

// A shape that tests change.
json small_config() {
  return {{"model_type", "qwen3_5_text"},
          {"vocab_size", 101},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 32},
          {"linear_num_key_heads", 2},
          {"linear_num_value_heads", 4},
          {"linear_key_head_dim", 64},
          {"linear_value_head_dim", 64},
          {"linear_conv_kernel_dim", 4},
          {"rope_parameters", {{"rope_theta", 1e7}, {"partial_rotary_factor", 0.25}}},
          {"tie_word_embeddings", false}};
}

}  // namespace

void RandomCheckpoint::write(const std::string& folder, uint32_t seed) const {
  write_json(folder + "/config.json",
             nested ? json{{"model_type", "qwen3_5"},
                           {"text_config", config},
                           {"tie_word_embeddings", config.at("tie_word_embeddings")}}
                    : config);
  const Writer writer(*this, seed);
  std::vector<std::vector<std::pair<std::string, TensorView>>> shards(static_cast<size_t>(files));
  json weight_map;
  size_t next = 0;
  for (const auto& [tensor_name, tensor] : writer.tensors()) {
    const size_t shard = next++ % shards.size();  // a layer in many files
    shards[shard].emplace_back(tensor_name, tensor.view());
    weight_map[tensor_name] = "model-" + std::to_string(shard + 1) + ".safetensors";
  }
  if (files > 1) write_json(folder + "/model.safetensors.index.json", {{"weight_map", weight_map}});
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    const std::string file =
        files > 1 ? "/model-" + std::to_string(shard + 1) + ".safetensors" : "/model.safetensors";
    const Status status = verify::write_safetensors(folder + file, shards[shard]);
    if (!status.ok()) throw std::runtime_error(status.message());
  }
}

std::vector<RandomCheckpoint> random_checkpoints() {
  std::vector<RandomCheckpoint> all;
  const auto add = [&all](const char* name, const json& changes) -> RandomCheckpoint& {
    RandomCheckpoint spec;
    spec.name = name;
    spec.config = small_config();
    spec.config.update(changes);
    all.push_back(spec);
    return all.back();
  };
  add("Default", json::object());
  add("MixedPatternThreeValueHeadsPerKeyHead",
      {{"num_hidden_layers", 5},
       {"layer_types",
        {"full_attention", "linear_attention", "linear_attention", "full_attention",
         "linear_attention"}},
       {"num_attention_heads", 6},
       {"linear_num_value_heads", 6},
       {"linear_value_head_dim", 48},
       {"rope_parameters", {{"rope_theta", 1e4}, {"partial_rotary_factor", 0.5}}}});
  auto& sharded = add("ShardedTiedBiasBfloat16",
                      {{"num_hidden_layers", 6},
                       {"full_attention_interval", 3},
                       {"num_key_value_heads", 4},
                       {"attention_bias", true},
                       {"linear_num_key_heads", 3},
                       {"linear_num_value_heads", 3},
                       {"linear_key_head_dim", 32},
                       {"linear_value_head_dim", 96},
                       {"rope_parameters", {{"rope_theta", 1e6}, {"partial_rotary_factor", 1.0}}},
                       {"tie_word_embeddings", true}});
  sharded.files = 3;
  sharded.dtype = DType::kBF16;
  auto& nested =
      add("NestedLinearOnlyFloat16", {{"num_hidden_layers", 2},
                                      {"layer_types", {"linear_attention", "linear_attention"}},
                                      {"linear_conv_kernel_dim", 3},
                                      {"linear_num_key_heads", 1},
                                      {"linear_key_head_dim", 128},
                                      {"linear_value_head_dim", 128}});
  nested.nested = true;
  nested.dtype = DType::kF16;
  add("FullOnlyOneKeyValueHeadTied", {{"num_hidden_layers", 2},
                                      {"full_attention_interval", 1},
                                      {"num_key_value_heads", 1},
                                      {"tie_word_embeddings", true}});
  return all;
}

}  // namespace gdn::tests
