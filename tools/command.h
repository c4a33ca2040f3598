// What the subcommands share: how one registers itself, how a mistake is reported, and the options
// that mean the same everywhere.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "gdn/gdn.h"
#include "verify/case.h"

namespace gdn::tools {

// Exit codes of the command.
constexpr int kSuccess = 0;
constexpr int kBoundBroken = 1;
constexpr int kMistake = 2;

// A wrong use, or a file that cannot be read: one line on stderr, exit code 2.
struct Mistake : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// Throws the message of a Status that is not ok as a Mistake.
void require(const Status& status);

// What is to run once the command line is parsed; returns the exit code.
using Action = std::function<int()>;

// Each adds its subcommand, which sets *action when it is chosen.
void add_info(CLI::App& app, Action* action);
void add_plan(CLI::App& app, Action* action);
void add_verify(CLI::App& app, Action* action);
void add_bench(CLI::App& app, Action* action);
void add_run(CLI::App& app, Action* action);
void add_tril(CLI::App& app, Action* action);

// Options.
void add_json(CLI::App* command, bool* json);
void add_threads(CLI::App* command, int* threads);
void add_kernel(CLI::App* command, std::string* kernel);
void add_dtype(CLI::App* command, const std::string& name, std::string* dtype,
               const std::string& help);

// Their meaning.
// "T=512,N=2,H=16,HV=32,K=128,V=128": sets those of the case; only the names in `allowed` are
// taken.
void parse_shape(const std::string& shape, const std::vector<std::string>& allowed,
                 verify::Case* c);
DType dtype_named(const std::string& name);  // "fp32", "bf16", "fp16"
const char* short_name(DType dtype);
// Throws unless a kernel of that name runs here; empty is the plan's own choice.
void check_kernel(const std::string& name);
// Where the captured layers are: beside an installed binary, here, or in the source tree; empty:
// nowhere.
std::string find_data();

struct Threads {
  std::unique_ptr<Executor> executor;
  const char* kind;  // "OpenMP", "std::thread"
};
Threads make_threads(int count);  // 0: as many as the executor takes by itself

}  // namespace gdn::tools
