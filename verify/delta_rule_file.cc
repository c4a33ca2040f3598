#include "verify/delta_rule_file.h"

#include <charconv>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

namespace gdn::verify {
namespace {

Status error(const SafetensorsFile& file, const std::string& message) {
  return {StatusCode::kInvalidArgument, file.name() + ": " + message};
}

// An option, from the caller or from the metadata.
template <class T>
class Setting {
 public:
  Setting(const SafetensorsFile& file, const char* key, const std::optional<T>& given)
      : value_(given) {
    const auto found = file.metadata().find(key);
    if (value_ || found == file.metadata().end()) return;
    const char* end = found->second.data() + found->second.size();
    T value{};
    if (const auto read = std::from_chars(found->second.data(), end, value);
        read.ec == std::errc() && read.ptr == end) {
      value_ = value;
    } else {
      status_ = error(file, std::string("__metadata__ ") + key + " is no number");
    }
  }
  const std::optional<T>& value() const { return value_; }
  const Status& status() const { return status_; }

 private:
  std::optional<T> value_;
  Status status_;
};

std::optional<int64_t> as_number(const std::optional<bool>& flag) {
  if (!flag) return std::nullopt;
  return *flag ? 1 : 0;
}

}  // namespace

Status read_delta_rule(const SafetensorsFile& file, const DeltaRuleFileOptions& options,
                       DeltaRuleFile* result) {
  *result = DeltaRuleFile();
  DeltaRuleData& data = result->data;
  const std::map<std::string, Tensor*> places = {
      {"q", &data.q},
      {"k", &data.k},
      {"v", &data.v},
      {"g", &data.g},
      {"A_log", &data.A_log},
      {"a", &data.a},
      {"dt_bias", &data.dt_bias},
      {"beta", &data.beta},
      {"b", &data.b},
      {"cu_seqlens", &data.cu_seqlens},
      {"initial_state", &data.initial_state},
      {"initial_state_indices", &data.initial_state_indices},
      {"final_state_indices", &data.final_state_indices},
      {"has_initial_state", &data.has_initial_state},
      {"num_accepted", &data.num_accepted},
      {"out_expected", &result->out_expected},
      {"final_state_expected", &result->final_state_expected},
  };
  for (const SafetensorsEntry& entry : file.entries()) {
    std::string name = entry.name;
    if (name.rfind(options.prefix, 0) == 0) {
      name = name.substr(options.prefix.size());
    } else if (name != "cu_seqlens") {
      continue;
    }
    const auto place = places.find(name);
    if (place == places.end()) {
      if (!options.prefix.empty()) continue;
      return error(file, "tensor \"" + name + "\" at byte " + std::to_string(entry.begin) +
                             " is no argument of chunk or recurrent");
    }
    if (!entry.view.given()) {
      return error(file, "tensor \"" + name + "\" at byte " + std::to_string(entry.begin) + " is " +
                             entry.dtype + ", which no argument takes");
    }
    TensorView view = entry.view;
    // [T,HV] is [1,T,HV], as captures of gates often are.
    const bool gate = name == "g" || name == "a" || name == "beta" || name == "b";
    if (gate && view.rank == 2) {
      view = TensorView(view.data, view.dtype, {1, view.shape[0], view.shape[1]});
    }
    *place->second = Tensor::copy_of(view);
  }
  for (const char* name : {"q", "k", "v"}) {
    if (!places.at(name)->given()) {
      return error(file, "has no tensor \"" + options.prefix + name + "\"");
    }
    if (places.at(name)->rank() != 4) {
      return error(file, "tensor \"" + options.prefix + name + "\" has " +
                             std::to_string(places.at(name)->rank()) + " axes, expected 4");
    }
  }

  const Setting<double> scale(file, "scale", options.scale);
  const Setting<int64_t> null_slot(file, "null_slot", options.null_slot);
  const Setting<int64_t> l2norm(file, "use_qk_l2norm", as_number(options.use_qk_l2norm));
  const Setting<int64_t> neg_eigval(file, "allow_neg_eigval", as_number(options.allow_neg_eigval));
  for (const Status* status :
       {&scale.status(), &null_slot.status(), &l2norm.status(), &neg_eigval.status()}) {
    if (!status->ok()) return *status;
  }
  std::optional<StateLayout> layout = options.layout;
  if (const auto said = file.metadata().find("state_layout");
      !layout && said != file.metadata().end()) {
    if (said->second != "vk" && said->second != "kv")
      return error(file,
                   "__metadata__ state_layout is \"" + said->second + "\", expected vk or kv");
    layout = said->second == "vk" ? StateLayout::kVK : StateLayout::kKV;
  }
  const bool has_states = data.initial_state.given() || result->final_state_expected.given();
  if (!layout && has_states) {
    return error(file,
                 "has states, but says not in __metadata__ state_layout whether they are vk "
                 "or kv, and no layout is given");
  }
  data.null_slot = null_slot.value();

  Case& about = data.about;
  about.H = data.q.extent(2);
  about.K = data.q.extent(3);
  about.HV = data.v.extent(2);
  about.V = data.v.extent(3);
  about.dtype = data.q.dtype();
  about.layout = layout.value_or(StateLayout::kVK);
  about.l2norm = l2norm.value().value_or(0) != 0;
  about.neg_eigval = neg_eigval.value().value_or(0) != 0;
  about.scale = scale.value().value_or(0);
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
