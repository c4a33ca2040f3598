#include "command.h"

#include <algorithm>
#include <cinttypes>
#include <filesystem>
#include <system_error>

#include "table.h"

#if defined(GDN_HAVE_OPENMP)
#include "gdn/openmp.h"
#endif

namespace gdn::tools {

void require(const Status& status) {
  if (!status.ok()) throw Mistake(status.message());
}

void add_json(CLI::App* command, bool* json) {
  command->add_flag("--json", *json, "Write JSON, and nothing else, to stdout");
}

void add_threads(CLI::App* command, int* threads) {
  command->add_option("--threads", *threads, "Threads; 0: as many as there are processors")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

void add_kernel(CLI::App* command, std::string* kernel) {
  command->add_option("--kernel", *kernel, "Force a kernel that `gdn info` lists");
}

void add_dtype(CLI::App* command, const std::string& name, std::string* dtype,
               const std::string& help) {
  command->add_option(name, *dtype, help)
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}))
      ->capture_default_str();
}

void parse_shape(const std::string& shape, const std::vector<std::string>& allowed,
                 verify::Case* c) {
  std::string names, words = text("H=%" PRId64 " HV=%" PRId64 " K=%" PRId64 " V=%" PRId64, c->H,
                                  c->HV, c->K, c->V);
  for (const std::string& name : allowed) names += (names.empty() ? "" : ", ") + name;
  for (const std::string& word : CLI::detail::split(shape, ',')) {
    const std::string name = word.substr(0, word.find('='));
    if (std::find(allowed.begin(), allowed.end(), name) == allowed.end() ||
        word.find_first_of(" \t") != std::string::npos) {
      throw Mistake("--shape: \"" + word + "\", expected a number for one of " + names +
                    ", as in H=16,HV=32");
    }
    words += " " + word;
  }
  verify::Case parsed;
  const Status status = verify::parse(words, &parsed);
  if (!status.ok()) throw Mistake("--shape: " + status.message());
  c->H = parsed.H, c->HV = parsed.HV, c->K = parsed.K, c->V = parsed.V;
  c->lengths = parsed.lengths;
}

DType dtype_named(const std::string& name) {
  if (name == "bf16") return DType::kBF16;
  if (name == "fp16") return DType::kF16;
  return DType::kF32;
}

const char* short_name(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "fp16";
    default:
      return "fp32";
  }
}

void check_kernel(const std::string& name) {
  if (name.empty()) return;
  std::string names;
  for (const KernelInfo& kernel : kernels()) {
    if (kernel.name == name) {
      if (kernel.supported) return;
      throw Mistake("kernel \"" + name + "\" is not supported by this processor");
    }
    names += (names.empty() ? "" : ", ") + std::string(kernel.name);
  }
  throw Mistake("kernel \"" + name + "\" is not in this build, expected one of " + names);
}

std::string find_data() {
  std::vector<std::filesystem::path> places = {"data", GDN_SOURCE_DIR "/data"};
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) places.insert(places.begin(), self.parent_path().parent_path() / "share/gdn");
  for (const auto& place : places) {
    if (std::filesystem::exists(place / "gdn_captures.safetensors", error)) return place.string();
  }
  return "";
}

Threads make_threads(int count) {
#if defined(GDN_HAVE_OPENMP)
  return {make_openmp_executor(count), "OpenMP"};
#else
  try {
    return {make_thread_executor(count), "std::thread"};
  } catch (const std::system_error& error) {
    throw Mistake(std::string("threads cannot be started: ") + error.what());
  }
#endif
}

}  // namespace gdn::tools
