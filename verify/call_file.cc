#include "verify/call_file.h"

#include <algorithm>
#include <charconv>

namespace gdn::verify {
namespace {

// Insertions, deletions and changes from one name to the other, upper and lower case alike.
size_t distance(std::string_view from, std::string_view to) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  std::vector<size_t> row(to.size() + 1);
  for (size_t j = 0; j <= to.size(); ++j) row[j] = j;
  for (size_t i = 0; i < from.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < to.size(); ++j) {
      const size_t change = diagonal + (lower(from[i]) == lower(to[j]) ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, diagonal + 1, change});
    }
  }
  return row.back();
}

bool is_gate(const std::string& name) {
  return name == "g" || name == "a" || name == "beta" || name == "b";
}

Status wrong(const std::string& where, const std::string& text, const char* expected) {
  return {StatusCode::kInvalidArgument, where + " is \"" + text + "\", expected " + expected};
}

template <class Number>
bool read_number(const std::string& text, Number* value) {
  const char* end = text.data() + text.size();
  Number read{};
  const auto result = std::from_chars(text.data(), end, read);
  if (result.ec != std::errc() || result.ptr != end) return false;
  *value = read;
  return true;
}

template <class T>
struct Word {
  const char* text;
  T value;
};
template <class T, size_t N>
Status read_word(const std::string& where, const std::string& text, const Word<T> (&words)[N],
                 const char* expected, T* value) {
  for (const Word<T>& word : words) {
    if (text != word.text) continue;
    *value = word.value;
    return {};
  }
  return wrong(where, text, expected);
}

}  // namespace

std::string nearest_name(std::string_view name, const std::vector<std::string>& known) {
  std::string nearest;
  size_t least = 0;
  for (const std::string& candidate : known) {
    const size_t steps = distance(name, candidate);
    const size_t length = std::max(name.size(), candidate.size());
    if (steps >= length || steps > (length + 1) / 3) continue;  // another word
    if (nearest.empty() || steps < least) {
      nearest = candidate;
      least = steps;
    }
  }
  return nearest;
}

Status read_tensors(const SafetensorsFile& file, const std::string& prefix,
                    const std::vector<TensorPlace>& places, const std::string& arguments) {
  for (const SafetensorsEntry& entry : file.entries()) {
    std::string name = entry.name;
    if (name.rfind(prefix, 0) == 0) {
      name = name.substr(prefix.size());
    } else if (name != "cu_seqlens") {
      continue;
    }
    const auto error = [&](const std::string& message) {
      return Status(StatusCode::kInvalidArgument, file.name() + ": tensor \"" + entry.name +
                                                      "\" at byte " + std::to_string(entry.begin) +
                                                      message);
    };
    const auto place = std::find_if(places.begin(), places.end(),
                                    [&](const TensorPlace& p) { return p.name == name; });
    if (place == places.end()) {
      std::vector<std::string> known;
      std::string all;
      for (const TensorPlace& p : places) {
        known.push_back(p.name);
        all += (all.empty() ? "" : ", ") + p.name;
      }
      const std::string nearest = nearest_name(name, known);
      if (!prefix.empty()) {  // a layer may have tensors of other operators, but no slips
        if (nearest.empty() || name.ends_with("_expected")) continue;
      } else if (const size_t dot = name.rfind('.'); dot != std::string::npos) {
        const std::string after = name.substr(dot + 1);
        if (std::find(known.begin(), known.end(), after) != known.end()) {
          return error(" is no " + arguments + ", expected \"" + after + "\", or --prefix " +
                       name.substr(0, dot + 1) + " for what is before it");
        }
      }
      return error(" is no " + arguments + ", expected " +
                   (nearest.empty() ? "one of " + all : "perhaps \"" + nearest + "\""));
    }
    if (!entry.view.given()) return error(" is " + entry.dtype + ", which no argument takes");
    TensorView view = entry.view;
    if (is_gate(name) && view.rank == 2) {
      view = TensorView(view.data, view.dtype, {1, view.shape[0], view.shape[1]});
    }
    place->take(view);
  }
  return {};
}

Status read_option(const std::string&, const std::string& text, std::string* value) {
  *value = text;
  return {};
}
Status read_option(const std::string& where, const std::string& text, bool* value) {
  static constexpr Word<bool> kWords[] = {
      {"1", true}, {"0", false}, {"true", true}, {"false", false}};
  return read_word(where, text, kWords, "1 or 0", value);
}
Status read_option(const std::string& where, const std::string& text, int64_t* value) {
  return read_number(text, value) ? Status() : wrong(where, text, "a whole number");
}
Status read_option(const std::string& where, const std::string& text, float* value) {
  return read_number(text, value) ? Status() : wrong(where, text, "a number");
}
Status read_option(const std::string& where, const std::string& text, double* value) {
  return read_number(text, value) ? Status() : wrong(where, text, "a number");
}
Status read_option(const std::string& where, const std::string& text, StateLayout* value) {
  static constexpr Word<StateLayout> kWords[] = {{"vk", StateLayout::kVK},
                                                 {"kv", StateLayout::kKV}};
  return read_word(where, text, kWords, "vk or kv", value);
}
Status read_option(const std::string& where, const std::string& text, Compute* value) {
  static constexpr Word<Compute> kWords[] = {
      {"auto", Compute::kAuto}, {"fp32", Compute::kF32}, {"bf16", Compute::kBF16}};
  return read_word(where, text, kWords, "auto, fp32 or bf16", value);
}
Status read_option(const std::string& where, const std::string& text, ContextSplit* value) {
  static constexpr Word<ContextSplit> kWords[] = {
      {"auto", ContextSplit::kAuto}, {"fixed", ContextSplit::kFixed}, {"off", ContextSplit::kOff}};
  return read_word(where, text, kWords, "auto, fixed or off", value);
}
Status read_option(const std::string& where, const std::string& text, SolveMethod* value) {
  static constexpr Word<SolveMethod> kWords[] = {{"exact", SolveMethod::kExact},
                                                 {"neumann", SolveMethod::kNeumann}};
  return read_word(where, text, kWords, "exact or neumann", value);
}

}  // namespace gdn::verify
