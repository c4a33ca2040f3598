// Continues a prompt: qwen35 --prompt "And it came to pass".
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "model.h"
#include "sampling.h"
#include "tokenizer.h"
#include "verify/safetensors.h"

using namespace qwen35;

namespace {

// Exit codes.
constexpr int kFailed = 1;  // a file is not what it should be
constexpr int kMisused = 2;

struct Misuse : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string model = QWEN35_DEFAULT_MODEL;
  std::string prompt;
  std::vector<int64_t> tokens;
  int64_t max_new_tokens = 400;
  double temperature = 0;
  uint64_t seed = 0;
  int threads = 0;
  std::string logits;
  CLI::Option* prompt_given = nullptr;
};

void add_options(CLI::App& app, Options* options) {
  app.add_option("--model", options->model, "Folder of config.json and safetensors")
      ->capture_default_str();
  options->prompt_given = app.add_option("--prompt", options->prompt, "Text to continue");
  app.add_option("--tokens", options->tokens, "Token ids to continue, as in 72,101,121")
      ->delimiter(',')
      ->excludes(options->prompt_given);
  app.add_option("--max-new-tokens", options->max_new_tokens, "How many tokens to make at most")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--temperature", options->temperature,
                 "0 takes the likeliest token each time; 0.8 gives livelier text")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--seed", options->seed, "Of the draws")->capture_default_str();
  app.add_option("--logits", options->logits,
                 "Safetensors file to write the prompt's logits to: input_ids [tokens], logits "
                 "[tokens,vocab]");
  app.add_option("--threads", options->threads, "0: one for each processor")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.footer(
      "The text goes to stdout, how fast it was made to stderr. A model without a byte tokenizer "
      "takes --tokens and gives token ids.");
}

// Shows tokens as they are made: text of a byte tokenizer, else ids.
class Printer {
 public:
  explicit Printer(const ByteTokenizer* tokenizer) : tokenizer_(tokenizer) {}

  void print(int64_t token) {
    if (tokenizer_ != nullptr) {
      const std::string text = tokenizer_->decode(token);
      std::fwrite(text.data(), 1, text.size(), stdout);
    } else {
      std::printf("%s%lld", first_ ? "" : " ", static_cast<long long>(token));
      first_ = false;
    }
    std::fflush(stdout);
  }

 private:
  const ByteTokenizer* tokenizer_;
  bool first_ = true;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void report(const char* what, size_t tokens, double seconds) {
  if (tokens == 0) return;
  std::fprintf(stderr, "%s: %zu tokens in %.3f s, %.0f tokens/s\n", what, tokens, seconds,
               static_cast<double>(tokens) / seconds);
}

void run(const Options& options) {
  const Config config = read_config(options.model);  // what is wrong there shows before a long load
  const auto tokenizer = ByteTokenizer::read(options.model);
  if (!options.prompt.empty() && !tokenizer) {
    throw Misuse(options.model + " has no byte tokenizer: give --tokens in place of --prompt");
  }
  const std::vector<int64_t> prompt =
      options.prompt.empty() ? options.tokens : tokenizer->encode(options.prompt);
  if (prompt.empty()) {
    throw Misuse(options.prompt_given->count() > 0
                     ? "--prompt is empty, expected some text to continue"
                     : "nothing to continue, expected --prompt or --tokens");
  }

  Model model(options.model, options.threads);

  auto start = std::chrono::steady_clock::now();
  const bool all = !options.logits.empty();
  Values logits = model.forward(prompt, all ? Model::Logits::kAll : Model::Logits::kLast);
  const double prefill_seconds = seconds_since(start);
  if (all) {
    const auto tokens = static_cast<int64_t>(prompt.size());
    const gdn::Status status = gdn::verify::write_safetensors(
        options.logits, {{"input_ids", {prompt.data(), {tokens}}},
                         {"logits", {logits.data(), {tokens, config.vocab_size}}}});
    if (!status.ok()) throw std::runtime_error(status.message());
    logits.erase(logits.begin(), logits.end() - config.vocab_size);
  }

  Printer printer(tokenizer ? &*tokenizer : nullptr);
  for (const int64_t token : prompt) printer.print(token);

  Sampler sampler(options.temperature, options.seed);
  const auto& end_ids = config.end_ids;
  size_t decoded = 0;
  start = std::chrono::steady_clock::now();
  for (int64_t made = 0; made < options.max_new_tokens; ++made) {
    const int64_t token = sampler.choose(logits);
    if (std::find(end_ids.begin(), end_ids.end(), token) != end_ids.end()) break;
    printer.print(token);
    if (made + 1 == options.max_new_tokens) break;
    logits = model.forward({&token, 1});
    ++decoded;
  }
  const double decode_seconds = seconds_since(start);
  std::printf("\n");
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    throw std::runtime_error("the text could not be written");
  }
  report("prefill", prompt.size(), prefill_seconds);
  report("decode", decoded, decode_seconds);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("A Qwen3.5 text model on libgdn: continues a prompt.", "qwen35");
  Options options;
  add_options(app, &options);
  const auto say = [](const std::exception& error, int code) {
    std::fprintf(stderr, "qwen35: %s\n", error.what());
    return code;
  };
  try {
    app.parse(argc, argv);
    run(options);
    return 0;
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::Error& error) {
    return say(error, kMisused);
  } catch (const Misuse& error) {
    return say(error, kMisused);
  } catch (const std::exception& error) {
    return say(error, kFailed);
  }
}
