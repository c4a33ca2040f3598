#include "verify/delta_rule_file.h"

#include <map>
#include <utility>
#include <vector>

#include "verify/arguments.h"
#include "verify/call_file.h"

namespace gdn::verify {
namespace {

Status error(const SafetensorsFile& file, const std::string& message) {
  return {StatusCode::kInvalidArgument, file.name() + ": " + message};
}

// What the caller set, else what the metadata says, else nothing.
template <class T>
Status read_setting(const SafetensorsFile& file, const char* key, const std::optional<T>& given,
                    std::optional<T>* value) {
  *value = given;
  return given ? Status() : read_metadata(file, key, value);
}

// Leaves what the systems of the chunks are made of, and stand-ins for q and v.
void take_keys_alone(DeltaRuleFile* file) {
  DeltaRuleData* data = &file->data;
  for (Tensor* state : {&file->out_expected, &file->final_state_expected, &data->initial_state,
                        &data->initial_state_indices, &data->final_state_indices,
                        &data->has_initial_state, &data->num_accepted}) {
    *state = Tensor();
  }
  data->q = data->k;
  const Tensor& gate = data->g.given() ? data->g : data->a.given() ? data->a : data->beta;
  const int64_t HV = gate.given() && gate.rank() == 3 ? gate.extent(2) : data->k.extent(2);
  data->v = Tensor(data->k.dtype(), {data->k.extent(0), data->k.extent(1), HV, 1});
  for (int64_t i = 0; i < data->v.size(); ++i) data->v.set(i, 0);
}

}  // namespace

Status read_delta_rule(const SafetensorsFile& file, const DeltaRuleFileOptions& options,
                       DeltaRuleFile* result) {
  *result = DeltaRuleFile();
  DeltaRuleData& data = result->data;
  std::map<std::string, Tensor*> tensors = {
      {"out_expected", &result->out_expected},
      {"final_state_expected", &result->final_state_expected},
  };
  for_each_delta_rule_input(data, [&](const char* name, Tensor& t) { tensors[name] = &t; });
  std::vector<TensorPlace> places;
  for (const auto& [name, tensor] : tensors) {
    places.push_back(
        {name, [to = tensor](const TensorView& view) { *to = Tensor::copy_of(view); }});
  }
  if (Status status = read_tensors(file, options.prefix, places, "argument of chunk or recurrent");
      !status.ok())
    return status;
  const std::vector<const char*> needed =
      options.keys_alone ? std::vector<const char*>{"k"} : std::vector<const char*>{"q", "k", "v"};
  for (const char* name : needed) {
    if (!tensors.at(name)->given()) {
      return error(file, "has no tensor \"" + options.prefix + name + "\"");
    }
    if (tensors.at(name)->rank() != 4) {
      return error(file, "tensor \"" + options.prefix + name + "\" has " +
                             std::to_string(tensors.at(name)->rank()) + " axes, expected 4");
    }
  }
  if (options.keys_alone) take_keys_alone(result);

  std::optional<double> scale;
  std::optional<bool> l2norm, neg_eigval;
  std::optional<StateLayout> layout;
  for (const Status& status :
       {read_setting(file, "scale", options.scale, &scale),
        read_setting(file, "null_slot", options.null_slot, &data.null_slot),
        read_setting(file, "use_qk_l2norm", options.use_qk_l2norm, &l2norm),
        read_setting(file, "allow_neg_eigval", options.allow_neg_eigval, &neg_eigval),
        read_setting(file, "state_layout", options.layout, &layout)}) {
    if (!status.ok()) return status;
  }
  const bool has_states = data.initial_state.given() || result->final_state_expected.given();
  if (!layout && has_states) {
    return error(file,
                 "has states, but says not in __metadata__ state_layout whether they are vk "
                 "or kv, and no layout is given");
  }

  Case& about = data.about;
  about.H = data.q.extent(2);
  about.K = data.q.extent(3);
  about.HV = data.v.extent(2);
  about.V = data.v.extent(3);
  about.dtype = data.q.dtype();
  about.layout = layout.value_or(StateLayout::kVK);
  about.l2norm = l2norm.value_or(false);
  about.neg_eigval = neg_eigval.value_or(false);
  about.scale = scale.value_or(0);
  about.packing = !data.cu_seqlens.given()                 ? Packing::kRows
                  : data.cu_seqlens.dtype() == DType::kI64 ? Packing::kCu64
                                                           : Packing::kCu32;
  about.gates = data.g.given() ? Gates::kGiven : Gates::kComputed;
  about.beta = data.beta.given() ? Beta::kGiven : data.b.given() ? Beta::kFromB : Beta::kNone;
  about.lengths.clear();
  if (data.cu_seqlens.given()) {
    const bool right =
        data.cu_seqlens.dtype() == DType::kI32 || data.cu_seqlens.dtype() == DType::kI64;
    for (int64_t n = 0; right && n + 1 < data.cu_seqlens.size(); ++n) {
      about.lengths.push_back(data.cu_seqlens.get_int(n + 1) - data.cu_seqlens.get_int(n));
    }
  } else {
    about.lengths.assign(static_cast<size_t>(data.q.extent(0)), data.q.extent(1));
  }

  data.out = Tensor(about.dtype, data.v.shape());
  if (data.final_state_indices.given()) {
    if (!data.initial_state.given())
      return error(file, "has final_state_indices, but no initial_state, their pool");
    data.final_state = data.initial_state;
    about.states = States::kInPlace;
  } else {
    const bool vk = about.layout == StateLayout::kVK;
    about.state = data.initial_state.given() ? data.initial_state.dtype() : DType::kF32;
    data.final_state = Tensor(
        about.state, {about.sequences(), about.HV, vk ? about.V : about.K, vk ? about.K : about.V});
    about.states = data.initial_state.given() ? States::kSeparate : States::kFinalOnly;
  }
  about.final_state = data.final_state.dtype();
  return {};
}

DeltaRuleData converted(const DeltaRuleData& data, DType dtype) {
  DeltaRuleData result = data;
  const DType from = data.about.dtype;
  for (Tensor* tensor : {&result.q, &result.k, &result.v, &result.a, &result.b, &result.beta}) {
    if (!tensor->given() || tensor->dtype() != from) continue;
    Tensor other(dtype, tensor->shape());
    for (int64_t i = 0; i < tensor->size(); ++i) other.set(i, tensor->get(i));
    *tensor = std::move(other);
  }
  result.out = Tensor(dtype, data.out.shape());
  result.about.dtype = dtype;
  return result;
}

}  // namespace gdn::verify
