// gdn info: what this build and this machine have.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "command.h"
#include "processor.h"
#include "table.h"

namespace gdn::tools {
namespace {

std::string join(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : " ") + word;
  return line.empty() ? "none of those that matter" : line;
}

int info(bool as_json) {
  const Processor machine = processor();
  const Threads threads = make_threads(0);
  Context context;
  context.executor = threads.executor.get();
  Plan chosen;
  require(plan(context, Shape(), &chosen));
  Shape bf16;
  bf16.dtype = DType::kBF16;
  Plan chosen_bf16;
  require(plan(context, bf16, &chosen_bf16));
  const char* bf16_products = chosen_bf16.compute == Compute::kBF16 ? "bfloat16" : "float32";

  if (as_json) {
    nlohmann::ordered_json out;
    out["version"] = GDN_VERSION;
    out["processor"] = {
        {"model", machine.model}, {"cores", machine.cores}, {"features", machine.features}};
    out["executor"] = {{"kind", threads.kind}, {"threads", threads.executor->max_workers()}};
    out["kernel"] = chosen.kernel;
    out["reason"] = chosen.reason;
    out["bf16_products"] = bf16_products;
    for (const KernelInfo& kernel : kernels()) {
      out["kernels"].push_back({{"name", kernel.name},
                                {"backend", kernel.backend},
                                {"description", kernel.description},
                                {"supported", kernel.supported},
                                {"chosen", kernel.name == chosen.kernel}});
    }
    std::printf("%s\n", out.dump(2).c_str());
    return kSuccess;
  }
  std::printf("gdn %s\n", GDN_VERSION);
  std::printf("processor  %s, %d cores: %s\n", machine.model.c_str(), machine.cores,
              join(machine.features).c_str());
  std::printf("threads    %d (%s)\n", threads.executor->max_workers(), threads.kind);
  std::printf("kernel     %s: %s; %s products for bfloat16 input\n\n",
              std::string(chosen.kernel).c_str(), std::string(chosen.reason).c_str(),
              bf16_products);
  Table table({"", "kernel", "backend", "runs here", "description"});
  for (const KernelInfo& kernel : kernels()) {
    table.add({kernel.name == chosen.kernel ? "*" : "", std::string(kernel.name),
               std::string(kernel.backend), kernel.supported ? "yes" : "no",
               std::string(kernel.description)});
  }
  table.print();
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
