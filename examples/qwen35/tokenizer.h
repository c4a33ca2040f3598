// Text to tokens and back for models that read bytes. The tokenizers of larger models (byte-pair
// encoding with a regular expression over Unicode) are beyond this example: such a model takes and
// gives token ids.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qwen35 {

class ByteTokenizer {
 public:
  // From tokenizer.json in a checkpoint's folder; nothing where there is none, or one that has more
  // to it than a token for each byte.
  static std::optional<ByteTokenizer> read(const std::string& folder);

  std::vector<int64_t> encode(std::string_view text) const;
  // Empty for a token that is no byte.
  std::string decode(int64_t token) const;

 private:
  std::array<int64_t, 256> token_of_{};
};

}  // namespace qwen35
