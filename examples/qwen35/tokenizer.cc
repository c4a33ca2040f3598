#include "tokenizer.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

namespace qwen35 {
namespace {

// Byte-level tokenizers spell a byte as a printable character (GPT-2): itself where it is one in
// Latin-1, else the next of those from U+0100 on. In UTF-8, which has two bytes for both kinds.
std::string spelling_of(int byte, int* next) {
  const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
  const int character = printable ? byte : (*next)++;
  if (character < 0x80) return std::string(1, static_cast<char>(character));
  return {static_cast<char>(0xc0 | character >> 6), static_cast<char>(0x80 | (character & 0x3f))};
}

}  // namespace

std::optional<ByteTokenizer> ByteTokenizer::read(const std::string& folder) {
  std::ifstream file(folder + "/tokenizer.json");
  if (!file) return {};
  try {
    const auto model = nlohmann::json::parse(file).at("model");
    const auto& vocab = model.at("vocab");
    if (!model.at("merges").empty() || vocab.size() != 256) return {};
    ByteTokenizer tokenizer;
    int next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      tokenizer.token_of_[byte] = vocab.at(spelling_of(byte, &next)).get<int64_t>();
    }
    return tokenizer;
  } catch (const nlohmann::json::exception&) {
    return {};  // of another kind
  }
}

std::vector<int64_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<int64_t> tokens;
  for (const unsigned char byte : text) tokens.push_back(token_of_[byte]);
  return tokens;
}

std::string ByteTokenizer::decode(int64_t token) const {
  const auto found = std::find(token_of_.begin(), token_of_.end(), token);
  if (found == token_of_.end()) return {};
  return std::string(1, static_cast<char>(found - token_of_.begin()));
}

}  // namespace qwen35
