// The `gdn` command.
#include <cstdio>
#include <exception>
#include <string>

#include "command.h"

using namespace gdn::tools;

namespace {

int fail(const std::string& command, std::string message) {
  for (char& c : message) {
    if (c == '\n') c = ' ';
  }
  while (!message.empty() && (message.back() == ' ' || message.back() == '.')) message.pop_back();
  std::fprintf(stderr, "%s: %s\n", command.c_str(), message.c_str());
  return kMistake;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "The Gated DeltaNet operators of libgdn on this machine: what runs, how exact, how "
      "fast.");
  app.name("gdn");
  app.set_version_flag("--version", "gdn " GDN_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Each command has its own --help. Exit codes: 0 success, 1 an error bound is broken, "
      "2 wrong use.");
  Action action;
  add_info(app, &action);
  add_plan(app, &action);
  add_verify(app, &action);
  add_bench(app, &action);
  add_run(app, &action);
  add_tril(app, &action);

  std::string command = "gdn";
  // The parser would only say that a subcommand is missing.
  const auto is_named = [&](CLI::App* subcommand) { return subcommand->check_name(argv[1]); };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(is_named).empty()) {
    return fail(command,
                std::string("there is no command \"") + argv[1] +
                    "\", expected info, plan, verify, bench, run or tril (see gdn --help)");
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    for (const CLI::App* chosen : app.get_subcommands()) command += " " + chosen->get_name();
    return fail(command, std::string(error.what()) + " (see " + command + " --help)");
  }
  for (const CLI::App* chosen : app.get_subcommands()) command += " " + chosen->get_name();
  try {
    const int code = action();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      return fail(command, "the output could not be written");
    }
    return code;
  } catch (const std::bad_alloc&) {
    return fail(command, "not enough memory");
  } catch (const std::exception& error) {
    return fail(command, error.what());
  }
}
