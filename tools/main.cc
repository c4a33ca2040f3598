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

// A word that is no subcommand, of which the parser would only say that one is missing.
std::string unknown_command(const CLI::App& app, int argc, char** argv) {
  const CLI::App* at = &app;
  std::string path = "gdn";
  for (int i = 1; i < argc && argv[i][0] != '-'; ++i) {
    const auto choices = at->get_subcommands([](const CLI::App*) { return true; });
    if (choices.empty()) break;
    const std::string word = argv[i];
    const CLI::App* next = nullptr;
    std::string names;
    for (const CLI::App* choice : choices) {
      if (choice->check_name(word)) next = choice;
      names += (names.empty() ? "" : choice == choices.back() ? " or " : ", ") + choice->get_name();
    }
    if (next == nullptr) {
      return "there is no \"" + path + " " + word + "\", expected " + names + " (see " + path +
             " --help)";
    }
    at = next;
    path += " " + word;
  }
  return "";
}

// " plan chunk": the subcommands of the command line.
std::string chosen_in(const CLI::App& app) {
  std::string names;
  for (const CLI::App* chosen : app.get_subcommands()) {
    names += " " + chosen->get_name() + chosen_in(*chosen);
  }
  return names;
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
  if (const std::string mistake = unknown_command(app, argc, argv); !mistake.empty()) {
    return fail(command, mistake);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    command += chosen_in(app);
    return fail(command, std::string(error.what()) + " (see " + command + " --help)");
  }
  command += chosen_in(app);
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
