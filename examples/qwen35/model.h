// A Qwen3.5 text model and the sequences it is reading.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "config.h"
#include "gdn/context.h"
#include "layers.h"
#include "weights.h"

namespace qwen35 {

class Model {
 public:
  // Reads a checkpoint's folder; throws std::runtime_error with what is wrong with it. threads = 0
  // takes all processors. The model holds the states of `slots` sequences at a time.
  explicit Model(const std::string& folder, int threads = 0, int32_t slots = 1);

  enum class Logits { kLast, kAll };

  // Reads the next tokens of the sequence in a slot and returns the logits of the token after the
  // last one, [vocab_size], or of the tokens after each, [tokens,vocab_size]. One token is decoded,
  // more are prefilled. Throws std::runtime_error.
  Values forward(std::span<const int64_t> tokens, Logits which = Logits::kLast, int32_t slot = 0);

  // The next token in this slot starts a new sequence.
  void restart(int32_t slot = 0) { lengths_[slot] = 0; }

  const Config& config() const { return config_; }

 private:
  using State = std::variant<LinearAttentionPool, FullAttentionCache>;

  Values forward_piece(std::span<const int64_t> tokens, const Step& step);

  Config config_;
  Weights weights_;
  std::unique_ptr<gdn::Executor> executor_;
  gdn::Context context_;
  std::vector<int64_t> lengths_;  // tokens read so far, by slot
  std::vector<State> states_;     // by layer
};

}  // namespace qwen35
