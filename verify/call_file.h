// What the readers of a call from a safetensors file share: its tensors by name, and options as
// text, from the metadata or a command line.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gdn/ops.h"
#include "gdn/status.h"
#include "verify/safetensors.h"

namespace gdn::verify {

// The known name that `name` may be a slip of; empty: none is near.
std::string nearest_name(std::string_view name, const std::vector<std::string>& known);

struct TensorPlace {
  std::string name;
  std::function<void(const TensorView&)> take;
};

// Hands every tensor of a file whose name, less the prefix, is a place's to that place; the view
// lies in the file's memory. cu_seqlens may lack the prefix. Without a prefix a tensor of no known
// name is an error that says what was expected, `arguments` ("an argument of chunk"), and the
// nearest name; with one, tensors that lack it belong to somebody else. A gate [T,HV] becomes
// [1,T,HV], as captures of gates often are.
Status read_tensors(const SafetensorsFile& file, const std::string& prefix,
                    const std::vector<TensorPlace>& places, const std::string& arguments);

// An option's value from its text: numbers, "1" or "0" or "true" or "false", "vk" or "kv", "auto",
// "fp32" or "bf16", "fixed" or "off", "exact" or "neumann". `where` begins the message: "--scale".
Status read_option(const std::string& where, const std::string& text, std::string* value);
Status read_option(const std::string& where, const std::string& text, bool* value);
Status read_option(const std::string& where, const std::string& text, int64_t* value);
Status read_option(const std::string& where, const std::string& text, float* value);
Status read_option(const std::string& where, const std::string& text, double* value);
Status read_option(const std::string& where, const std::string& text, StateLayout* value);
Status read_option(const std::string& where, const std::string& text, Compute* value);
Status read_option(const std::string& where, const std::string& text, ContextSplit* value);
Status read_option(const std::string& where, const std::string& text, SolveMethod* value);
template <class T>
Status read_option(const std::string& where, const std::string& text, std::optional<T>* value) {
  T read{};
  Status status = read_option(where, text, &read);
  if (status.ok()) *value = read;
  return status;
}

// The same from the metadata, where the key is there.
template <class T>
Status read_metadata(const SafetensorsFile& file, const std::string& key, T* value) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) return {};
  return read_option(file.name() + ": __metadata__ " + key, found->second, value);
}

}  // namespace gdn::verify
