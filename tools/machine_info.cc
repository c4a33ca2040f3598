#include "machine_info.h"

#include "table.h"

namespace gdn::tools {
namespace {

std::string join(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : " ") + word;
  return line.empty() ? "none of those that matter" : line;
}

}  // namespace

Status machine_info(const Context& context, const std::string& executor, MachineInfo* info) {
  info->processor = processor();
  info->executor = executor;
  info->threads = context.executor != nullptr ? context.executor->max_workers() : 1;
  if (Status status = plan(context, Shape(), &info->chosen); !status.ok()) return status;
  Shape bf16;
  bf16.dtype = DType::kBF16;
  Plan chosen_bf16;
  if (Status status = plan(context, bf16, &chosen_bf16); !status.ok()) return status;
  info->bf16_products = chosen_bf16.compute == Compute::kBF16;
  info->kernels = kernels();
  return {};
}

std::string to_string(const MachineInfo& info) {
  const Plan& chosen = info.chosen;
  std::string lines = "gdn " GDN_VERSION "\n";
  lines += "processor  " + info.processor.model + ", " + std::to_string(info.processor.cores) +
           " cores: " + join(info.processor.features) + "\n";
  lines += "threads    " + std::to_string(info.threads) + " (" + info.executor + ")\n";
  lines += "kernel     " + std::string(chosen.kernel) + ": " + std::string(chosen.reason) + "; " +
           (info.bf16_products ? "bfloat16" : "float32") + " products for bfloat16 input\n\n";
  Table table({"", "kernel", "backend", "runs here", "description"});
  for (const KernelInfo& kernel : info.kernels) {
    table.add({kernel.name == chosen.kernel ? "*" : "", std::string(kernel.name),
               std::string(kernel.backend), kernel.supported ? "yes" : "no",
               std::string(kernel.description)});
  }
  return lines + table.to_string();
}

}  // namespace gdn::tools
