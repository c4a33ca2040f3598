#include "verify/captures.h"

#include <utility>

namespace gdn::verify {
namespace {

// A tensor of gates, [T,HV] in the file.
Status read_gate(const SafetensorsFile& file, const std::string& name, Tensor* gate) {
  const TensorView view = file.view(name);
  if (view.rank != 2)
    return {StatusCode::kInvalidArgument,
            file.name() + ": has no tensor \"" + name + "\" of 2 axes"};
  *gate = Tensor::copy_of({view.data, view.dtype, {1, view.shape[0], view.shape[1]}});
  return {};
}

}  // namespace

Status read_captures(const std::string& directory, std::vector<Capture>* captures) {
  captures->clear();
  SafetensorsFile file;
  if (Status status = SafetensorsFile::open(directory + "/gdn_captures.safetensors", &file);
      !status.ok())
    return status;
  // How they were made: the file's note.
  DeltaRuleFileOptions options;
  options.layout = StateLayout::kVK;
  options.use_qk_l2norm = true;
  for (const SafetensorsEntry& entry : file.entries()) {
    const size_t dot = entry.name.find('.');
    if (dot == std::string::npos || entry.name.substr(dot) != ".q") continue;
    Capture capture;
    capture.layer = entry.name.substr(0, dot);
    options.prefix = capture.layer + ".";
    Status status = read_delta_rule(file, options, &capture.file);
    if (status.ok()) status = read_gate(file, options.prefix + "g_expected", &capture.g_expected);
    if (status.ok())
      status = read_gate(file, options.prefix + "beta_expected", &capture.beta_expected);
    if (!status.ok()) return status;
    if (!capture.file.final_state_expected.given()) {  // too large for one file
      SafetensorsFile states;
      status = SafetensorsFile::open(
          directory + "/gdn_captures_" + capture.layer + "_state.safetensors", &states);
      if (!status.ok()) return status;
      const TensorView view = states.view(options.prefix + "final_state_expected");
      if (!view.given()) {
        return {StatusCode::kInvalidArgument,
                states.name() + ": has no tensor \"" + options.prefix + "final_state_expected\""};
      }
      capture.file.final_state_expected = Tensor::copy_of(view);
    }
    captures->push_back(std::move(capture));
  }
  if (captures->empty())
    return {StatusCode::kInvalidArgument, file.name() + ": has no tensor named \"<layer>.q\""};
  return {};
}

}  // namespace gdn::verify
