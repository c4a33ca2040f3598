#include "verify/case.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <sstream>
#include <string_view>

namespace gdn::verify {
namespace {

// The words of every enumeration, in its order.
template <class E>
struct Words;
template <>
struct Words<Operator> {
  static constexpr std::string_view list[] = {"chunk", "recurrent", "replay", "causal_conv1d"};
};
template <>
struct Words<DType> {  // the float ones
  static constexpr std::string_view list[] = {"f32", "bf16", "f16"};
};
template <>
struct Words<StateLayout> {
  static constexpr std::string_view list[] = {"vk", "kv"};
};
template <>
struct Words<Packing> {
  static constexpr std::string_view list[] = {"rows", "cu32", "cu64"};
};
template <>
struct Words<Strides> {
  static constexpr std::string_view list[] = {"contiguous", "fused", "padded"};
};
template <>
struct Words<Indices> {
  static constexpr std::string_view list[] = {"none",      "pool32",   "pool64",  "shared",
                                              "per_token", "accepted", "one_slot"};
};
template <>
struct Words<States> {
  static constexpr std::string_view list[] = {"separate", "in_place", "initial_only", "final_only",
                                              "none"};
};
template <>
struct Words<Padding> {
  static constexpr std::string_view list[] = {"none", "negative", "null_slot", "both"};
};
template <>
struct Words<Gates> {
  static constexpr std::string_view list[] = {"given", "computed", "computed_f32"};
};
template <>
struct Words<Beta> {
  static constexpr std::string_view list[] = {"given", "given_f32", "b", "b_f32", "none"};
};
template <>
struct Words<Compute> {
  static constexpr std::string_view list[] = {"auto", "f32", "bf16"};
};
template <>
struct Words<ContextSplit> {
  static constexpr std::string_view list[] = {"auto", "fixed", "off"};
};
template <>
struct Words<Input> {
  static constexpr std::string_view list[kInputCount] = {
      "usual",    "identical_keys", "common_keys", "forget_once", "forget_always", "forget_whole",
      "no_decay", "beta_zero",      "beta_one",    "zero_chunk",  "large_values"};
};

template <class E>
std::string write(const E& value) {
  return std::string(Words<E>::list[static_cast<size_t>(value)]);
}
std::string write(int64_t value) { return std::to_string(value); }
std::string write(uint64_t value) { return std::to_string(value); }
std::string write(bool value) { return value ? "1" : "0"; }
std::string write(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}
std::string write(const std::vector<int64_t>& values) {
  std::string text;
  for (int64_t value : values) {
    if (!text.empty()) text += ',';
    text += std::to_string(value);
  }
  return text;
}

template <class E>
bool read(std::string_view text, E* value) {
  const auto& list = Words<E>::list;
  const auto found = std::find(std::begin(list), std::end(list), text);
  if (found == std::end(list)) return false;
  *value = static_cast<E>(found - std::begin(list));
  return true;
}
template <class Number>
bool read_number(std::string_view text, Number* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}
bool read(std::string_view text, int64_t* value) { return read_number(text, value); }
bool read(std::string_view text, uint64_t* value) { return read_number(text, value); }
bool read(std::string_view text, double* value) { return read_number(text, value); }
bool read(std::string_view text, bool* value) {
  *value = text == "1";
  return text == "1" || text == "0";
}
bool read(std::string_view text, std::vector<int64_t>* values) {
  values->clear();
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    int64_t value = 0;
    if (!read_number(text.substr(0, comma), &value)) return false;
    values->push_back(value);
    text.remove_prefix(std::min(text.size(), comma + 1));
  }
  return true;
}

// The one list of fields: visit(name, member).
template <class CaseType, class Visit>
void for_each_field(CaseType& c, const Visit& visit) {
  visit("op", c.op);
  visit("lengths", c.lengths);
  visit("H", c.H);
  visit("HV", c.HV);
  visit("K", c.K);
  visit("V", c.V);
  visit("dtype", c.dtype);
  visit("state", c.state);
  visit("final_state", c.final_state);
  visit("layout", c.layout);
  visit("packing", c.packing);
  visit("tail", c.tail);
  visit("strides", c.strides);
  visit("shift", c.shift);
  visit("indices", c.indices);
  visit("states", c.states);
  visit("padding", c.padding);
  visit("has_initial", c.has_initial);
  visit("gates", c.gates);
  visit("beta", c.beta);
  visit("neg_eigval", c.neg_eigval);
  visit("l2norm", c.l2norm);
  visit("l2norm_eps", c.l2norm_eps);
  visit("softplus_beta", c.softplus_beta);
  visit("softplus_threshold", c.softplus_threshold);
  visit("scale", c.scale);
  visit("checkpoint_every", c.checkpoint_every);
  visit("compute", c.compute);
  visit("chunk_size", c.chunk_size);
  visit("context_split", c.context_split);
  visit("D", c.D);
  visit("W", c.W);
  visit("spare", c.spare);
  visit("weight", c.weight);
  visit("bias", c.bias);
  visit("silu", c.silu);
  visit("channels_last", c.channels_last);
  visit("input", c.input);
  visit("seed", c.seed);
  visit("first", c.first);
}

Status invalid(std::string message) { return {StatusCode::kInvalidArgument, "case: " + message}; }

}  // namespace

int64_t Case::tokens() const { return std::accumulate(lengths.begin(), lengths.end(), int64_t{0}); }

int64_t Case::max_length() const {
  return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
}

std::string to_string(const Case& c) {
  std::string text;
  const auto add = [&](std::string_view name, const std::string& value) {
    if (!text.empty()) text += ' ';
    text.append(name).append("=").append(value);
  };
  const Case usual;
  std::vector<std::string> defaults;
  for_each_field(usual,
                 [&](std::string_view, const auto& member) { defaults.push_back(write(member)); });
  size_t field = 0;
  for_each_field(c, [&](std::string_view name, const auto& member) {
    const std::string value = write(member);
    const bool always = name == "op" || name == "lengths" || name == "seed";
    if (always || value != defaults[field]) add(name, value);
    ++field;
  });
  return text;
}

Status parse(const std::string& text, Case* c) {
  *c = Case();
  int64_t T = -1, N = -1;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos) return invalid("\"" + word + "\", expected name=value");
    const std::string_view name = std::string_view(word).substr(0, equals);
    const std::string_view value = std::string_view(word).substr(equals + 1);
    bool known = false, right = false;
    if (name == "T" || name == "N") {
      known = true;
      right = read(value, name == "T" ? &T : &N);
    }
    for_each_field(*c, [&](std::string_view field, auto& member) {
      if (field != name) return;
      known = true;
      right = read(value, &member);
    });
    if (!known) return invalid("\"" + word + "\" names no field");
    if (!right) return invalid("\"" + word + "\" has a value that the field cannot have");
  }
  if (T >= 0 || N >= 0) {
    if (N > 100000) return invalid("N is too large");
    c->lengths.assign(static_cast<size_t>(std::max<int64_t>(N, N < 0 ? 1 : 0)),
                      std::max<int64_t>(T, 0));
  }
  return valid(*c);
}

Status valid(const Case& c) {
  const bool indexed = c.indices != Indices::kNone;
  const bool reads = c.states != States::kFinalOnly && c.states != States::kNone;
  const bool writes = c.states != States::kInitialOnly && c.states != States::kNone;
  for (int64_t length : c.lengths) {
    if (length < 0) return invalid("lengths are 0 or more");
    if (c.packing == Packing::kRows && length != c.lengths[0])
      return invalid("packing=rows needs equal lengths");
  }
  if (c.H < 1 || c.HV < 1 || c.HV % c.H != 0) return invalid("HV is a multiple of H");
  if (c.K < 1 || c.K > 256 || c.V < 1 || c.V > 256) return invalid("K and V are 1 to 256");
  if (c.tail < 0 || (c.tail > 0 && c.packing == Packing::kRows))
    return invalid("tail is 0 or more, and needs packed sequences");
  if (c.shift < 0 || c.shift > 64) return invalid("shift is 0 to 64");
  if (c.states == States::kInPlace && c.state != c.final_state)
    return invalid("states=in_place needs state and final_state of one dtype");
  if (indexed && !reads && !writes) return invalid("indices need states");
  if (c.padding != Padding::kNone && !indexed) return invalid("padding needs indices");
  if (c.has_initial && !reads) return invalid("has_initial needs an initial state");
  if (c.indices == Indices::kShared && !reads)
    return invalid("indices=shared needs an initial state");
  if (c.indices == Indices::kPerToken && !writes)
    return invalid("indices=per_token needs a final state");
  if (c.indices == Indices::kAccepted && !reads)
    return invalid("indices=accepted needs an initial state");
  if (c.op != Operator::kChunk && c.checkpoint_every != 0)
    return invalid("checkpoints belong to op=chunk");
  if (c.checkpoint_every < 0 || c.checkpoint_every % 64 != 0)
    return invalid("checkpoint_every is a multiple of 64");
  if (c.input != Input::kUsual &&
      (c.gates != Gates::kGiven || (c.beta != Beta::kGiven && c.beta != Beta::kGivenF32)))
    return invalid("hard inputs need gates=given and beta=given or given_f32");
  if (c.D < 1 || c.W < 1 || c.W > 8 || c.spare < 0) {
    return invalid("D is 1 or more, W is 1 to 8, spare is 0 or more");
  }
  if (c.indices == Indices::kOneSlot &&
      (c.op != Operator::kCausalConv1d || !reads || c.spare < c.max_length() - 1)) {
    return invalid(
        "indices=one_slot needs op=causal_conv1d, an initial state, and spare of at least the "
        "longest length less 1");
  }
  if (c.op == Operator::kCausalConv1d && c.input != Input::kUsual) {
    return invalid("op=causal_conv1d has usual inputs alone");
  }
  if (c.op == Operator::kReplay &&
      (c.states != States::kInPlace || c.has_initial || c.compute != Compute::kAuto ||
       !(c.indices == Indices::kNone || c.indices == Indices::kPool32 ||
         c.indices == Indices::kPool64)))
    return invalid(
        "op=replay needs states=in_place, indices none, pool32 or pool64, and no has_initial or "
        "compute");
  return {};
}

const char* name_of(Operator op) { return Words<Operator>::list[static_cast<size_t>(op)].data(); }
const char* name_of(Input input) { return Words<Input>::list[static_cast<size_t>(input)].data(); }

}  // namespace gdn::verify
