// gdn info: what this build and this machine have.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "command.h"
#include "machine_info.h"

namespace gdn::tools {
namespace {

void print_json(const MachineInfo& found) {
  const Processor& machine = found.processor;
  nlohmann::ordered_json out;
  out["version"] = GDN_VERSION;
  out["processor"] = {
      {"model", machine.model}, {"cores", machine.cores}, {"features", machine.features}};
  out["executor"] = {{"kind", found.executor}, {"threads", found.threads}};
  out["kernel"] = found.chosen.kernel;
  out["reason"] = found.chosen.reason;
  out["bf16_products"] = found.bf16_products ? "bfloat16" : "float32";
  for (const KernelInfo& kernel : found.kernels) {
    out["kernels"].push_back({{"name", kernel.name},
                              {"backend", kernel.backend},
                              {"description", kernel.description},
                              {"supported", kernel.supported},
                              {"chosen", kernel.name == found.chosen.kernel}});
  }
  std::printf("%s\n", out.dump(2).c_str());
}

int info(bool as_json) {
  const Threads threads = make_threads(0);
  Context context;
  context.executor = threads.executor.get();
  MachineInfo found;
  require(machine_info(context, threads.kind, &found));
  if (as_json) {
    print_json(found);
  } else {
    std::fputs(to_string(found).c_str(), stdout);
  }
  return kSuccess;
}

}  // namespace

void add_info(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand(
      "info", "Version, processor, kernels, and which of them is chosen and why");
  const auto json = std::make_shared<bool>(false);
  add_json(command, json.get());
  command->footer("Example:\n  gdn info --json");
  command->callback([=] { *action = [=] { return info(*json); }; });
}

}  // namespace gdn::tools
