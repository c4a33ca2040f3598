#include "weights.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "src/half.h"
#include "verify/safetensors.h"

namespace qwen35 {
namespace {

using gdn::verify::SafetensorsEntry;
using gdn::verify::SafetensorsFile;
using Shape = std::vector<int64_t>;

std::string to_string(const Shape& shape) {
  std::string text;
  for (int64_t extent : shape) {
    text += text.empty() ? '[' : ',';
    text += std::to_string(extent);
  }
  return text.empty() ? "[]" : text + "]";
}

// The tensors of one file, or of all files of an index, by name.
class Checkpoint {
 public:
  explicit Checkpoint(const std::string& folder) : folder_(folder) {
    std::set<std::string> names;
    const std::string index = folder + "/model.safetensors.index.json";
    if (std::ifstream file(index); file) {
      try {
        const auto map = nlohmann::json::parse(file).at("weight_map");
        for (const std::string name : map) names.insert(name);
      } catch (const nlohmann::json::exception& error) {
        throw std::runtime_error(index + ": " + error.what());
      }
    } else {
      names.insert("model.safetensors");
    }
    files_.resize(names.size());
    auto file = files_.begin();
    for (const std::string& name : names) {
      const gdn::Status status = SafetensorsFile::open(folder + "/" + name, &*file);
      if (!status.ok()) throw std::runtime_error(status.message());
      for (const SafetensorsEntry& entry : file->entries()) tensors_[entry.name] = &entry;
      ++file;
    }

    // A text model's own file, or that of a model that sees images.
    for (const std::string prefix : {"model.", "model.language_model."}) {
      if (tensors_.contains(prefix + "embed_tokens.weight")) prefix_ = prefix;
    }
    if (prefix_.empty()) fail("embed_tokens.weight", "is in none of the model's files");
  }

  // Tensors of the text model are named from here on: "layers.0.mlp.up_proj.weight".
  std::string name_of(const std::string& name) const { return prefix_ + name; }

  // A tensor in float32.
  std::vector<float> read(const std::string& name, const Shape& shape) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) fail(name, "is in none of the model's files");
    const SafetensorsEntry& entry = *found->second;
    if (entry.shape != shape) {
      fail(name, "has shape " + to_string(entry.shape) + ", expected " + to_string(shape));
    }
    const bool floats = entry.dtype == "F32" || entry.dtype == "BF16" || entry.dtype == "F16";
    if (!floats) fail(name, "has dtype " + entry.dtype + ", expected F32, BF16 or F16");

    std::vector<float> values(static_cast<size_t>(entry.view.size()));
    const auto* from = static_cast<const std::byte*>(entry.view.data);
    for (float& value : values) {
      value = gdn::load_float(from, entry.view.dtype);
      from += gdn::size_of(entry.view.dtype);
    }
    return values;
  }

  // Matrices of the given numbers of rows, one below the other.
  struct Part {
    std::string name;
    int64_t rows;
  };
  Linear read_linear(const std::vector<Part>& parts, int64_t in, bool bias = false) const {
    Linear linear;
    linear.in = in;
    for (const Part& part : parts) {
      linear.out += part.rows;
      append(read(part.name + ".weight", {part.rows, in}), &linear.weight);
      if (bias) append(read(part.name + ".bias", {part.rows}), &linear.bias);
    }
    return linear;
  }

 private:
  static void append(std::vector<float> from, std::vector<float>* to) {
    if (to->empty()) {
      *to = std::move(from);
    } else {
      to->insert(to->end(), from.begin(), from.end());
    }
  }

  [[noreturn]] void fail(const std::string& name, const std::string& message) const {
    throw std::runtime_error(folder_ + ": tensor " + name + " " + message);
  }

  std::string folder_, prefix_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const SafetensorsEntry*> tensors_;
};

LinearAttentionWeights read_linear_attention(const Checkpoint& from, const std::string& layer,
                                             const Config& config) {
  const auto& [H, HV, K, V, conv_width] = config.linear;
  const std::string at = layer + "linear_attn.";
  const int64_t qkv = 2 * H * K + HV * V;
  LinearAttentionWeights w;
  w.in = from.read_linear({{at + "in_proj_qkv", qkv},
                           {at + "in_proj_z", HV * V},
                           {at + "in_proj_b", HV},
                           {at + "in_proj_a", HV}},
                          config.hidden_size);
  w.conv = from.read(at + "conv1d.weight", {qkv, 1, conv_width});
  w.A_log = from.read(at + "A_log", {HV});
  w.dt_bias = from.read(at + "dt_bias", {HV});
  w.norm = from.read(at + "norm.weight", {V});
  w.out = from.read_linear({{at + "out_proj", config.hidden_size}}, HV * V);
  return w;
}

FullAttentionWeights read_full_attention(const Checkpoint& from, const std::string& layer,
                                         const Config& config) {
  const auto& full = config.full;
  const std::string at = layer + "self_attn.";
  const int64_t q = full.heads * full.head_dim, kv = full.kv_heads * full.head_dim;
  FullAttentionWeights w;
  w.in = from.read_linear({{at + "q_proj", 2 * q}, {at + "k_proj", kv}, {at + "v_proj", kv}},
                          config.hidden_size, full.bias);
  w.q_norm = from.read(at + "q_norm.weight", {full.head_dim});
  w.k_norm = from.read(at + "k_norm.weight", {full.head_dim});
  w.out = from.read_linear({{at + "o_proj", config.hidden_size}}, q, full.bias);
  return w;
}

}  // namespace

Weights read_weights(const std::string& folder, const Config& config) {
  const Checkpoint from(folder);
  const int64_t hidden = config.hidden_size, intermediate = config.intermediate_size;
  Weights weights;
  weights.embedding = from.read_linear({{from.name_of("embed_tokens"), config.vocab_size}}, hidden);
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const std::string layer = from.name_of("layers." + std::to_string(i) + ".");
    LayerWeights w;
    w.mixer_norm = from.read(layer + "input_layernorm.weight", {hidden});
    if (config.layers[i] == Mixer::kLinearAttention) {
      w.mixer = read_linear_attention(from, layer, config);
    } else {
      w.mixer = read_full_attention(from, layer, config);
    }
    w.mlp_norm = from.read(layer + "post_attention_layernorm.weight", {hidden});
    w.mlp_in = from.read_linear(
        {{layer + "mlp.gate_proj", intermediate}, {layer + "mlp.up_proj", intermediate}}, hidden);
    w.mlp_out = from.read_linear({{layer + "mlp.down_proj", hidden}}, intermediate);
    weights.layers.push_back(std::move(w));
  }
  weights.norm = from.read(from.name_of("norm.weight"), {hidden});
  if (!config.tied_embeddings) {
    weights.own_head = from.read_linear({{"lm_head", config.vocab_size}}, hidden);
  }
  return weights;
}

}  // namespace qwen35
