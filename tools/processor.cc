#include "processor.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <string_view>
#include <thread>

namespace gdn::tools {
namespace {

// As Linux spells them: x86, then AArch64.
constexpr std::array kFeatures = {"avx2",     "fma",      "f16c",        "avx512f",  "avx512bw",
                                  "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16",
                                  "amx_fp16", "asimd",    "asimdhp",     "sve",      "sve2",
                                  "bf16",     "sme"};

}  // namespace

Processor processor() {
  Processor found;
  found.cores = static_cast<int>(std::thread::hardware_concurrency());
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  while (std::getline(cpuinfo, line)) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string key = line.substr(0, line.find_first_of("\t :"));
    std::string value = colon + 2 <= line.size() ? line.substr(colon + 2) : "";
    if (line.rfind("model name", 0) == 0 && found.model.empty()) found.model = value;
    if ((key == "flags" || key == "Features") && found.features.empty()) {
      std::istringstream words(value);
      std::vector<std::string> all;
      for (std::string word; words >> word;) all.push_back(word);
      for (const char* feature : kFeatures) {
        if (std::find(all.begin(), all.end(), feature) != all.end())
          found.features.push_back(feature);
      }
    }
  }
  if (found.model.empty()) {
#if defined(__aarch64__)
    found.model = "AArch64";
#elif defined(__x86_64__)
    found.model = "x86-64";
#else
    found.model = "unknown";
#endif
  }
  return found;
}

}  // namespace gdn::tools
