#include "check/common.h"

#include <cfloat>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <utility>

namespace gdn {
namespace {

// No tensor of a real call is larger, and products of a few counts stay far from overflow.
constexpr int64_t kMaxElements = int64_t{1} << 48;

constexpr int64_t kMaxDim = 256;  // of K, V, and the n of solve_tril
constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;

// What a tensor without elements points to.
alignas(64) std::byte no_elements[64];

std::string list_text(const int64_t* items, int rank) {
  if (rank > TensorView::kMaxRank) return "of more than 6 axes";
  std::string text = "[";
  for (int i = 0; i < rank; ++i) {
    if (i > 0) text += ",";
    text += std::to_string(items[i]);
  }
  return text + "]";
}

const char* name_of(DeviceType device) { return device == DeviceType::kCUDA ? "CUDA" : "CPU"; }

bool has_negative_extent(const TensorView& view) {
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] < 0) return true;
  }
  return false;
}

// Zero extents count as one, so that the others stay small as well.
bool has_too_many_elements(const TensorView& view) {
  int64_t elements = 1;
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] > 1 && __builtin_mul_overflow(elements, view.shape[i], &elements))
      return true;
  }
  return elements > kMaxElements;
}

bool is_contiguous(const TensorView& view, Contiguous contiguous) {
  if (contiguous == Contiguous::kNone) return true;
  const int first = contiguous == Contiguous::kLastAxis ? view.rank - 1 : 1;
  int64_t stride = 1;
  for (int i = view.rank - 1; i >= first; --i) {
    if (view.shape[i] > 1 && view.strides[i] != stride) return false;
    stride *= view.shape[i];
  }
  return true;
}

}  // namespace

Extents::Extents(std::initializer_list<Extent> items) : rank_(static_cast<int>(items.size())) {
  int i = 0;
  for (const Extent& item : items) items_[i++] = item;
}

Extents Extents::of(const TensorView& view, int rank) {
  Extents extents;
  extents.rank_ = rank;
  for (int i = 0; i < rank; ++i) extents.items_[i] = Extent(view.shape[i]);
  return extents;
}

Extents Extents::last_optional() const {
  Extents extents = *this;
  extents.last_optional_ = true;
  return extents;
}

bool Extents::match(const TensorView& view) const {
  if (view.rank != rank_ && !(last_optional_ && view.rank == rank_ - 1)) return false;
  for (int i = 0; i < view.rank; ++i) {
    if (items_[i].name == nullptr && items_[i].value != view.shape[i]) return false;
  }
  return true;
}

std::string Extents::text() const {
  std::string texts[2] = {"[", "["};
  for (int i = 0; i < rank_; ++i) {
    std::string item = i > 0 ? "," : "";
    item += items_[i].name != nullptr ? items_[i].name : std::to_string(items_[i].value);
    texts[0] += item;
    if (i < rank_ - 1) texts[1] += item;
  }
  return last_optional_ ? texts[1] + "] or " + texts[0] + "]" : texts[0] + "]";
}

std::string DTypes::text() const {
  std::string names[6];
  int count = 0;
  for (int i = 0; i < 6; ++i) {
    const DType dtype = static_cast<DType>(i);
    if (has(dtype)) names[count++] = name_of(dtype);
  }
  std::string text = names[0];
  for (int i = 1; i < count; ++i) text += (i == count - 1 ? " or " : ", ") + names[i];
  if (owner_ != nullptr) text += std::string(", the dtype of ") + owner_;
  return text;
}

std::string shape_text(const TensorView& view) { return list_text(view.shape, view.rank); }
std::string strides_text(const TensorView& view) { return list_text(view.strides, view.rank); }

std::string element_text(std::string_view name, int64_t i) {
  return std::string(name) + "[" + std::to_string(i) + "]";
}
std::string element_text(std::string_view name, int64_t i, int64_t j) {
  return std::string(name) + "[" + std::to_string(i) + "," + std::to_string(j) + "]";
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

void Check::fail(StatusCode code, std::string_view argument, std::string_view got,
                 std::string_view expected) {
  if (!ok()) return;
  std::string message = name_of(op_);
  message += ": ";
  message += argument;
  message += " ";
  message += got;
  message += ", expected ";
  message += expected;
  status_ = Status(code, std::move(message));
}

void Check::shape(const char* name, const TensorView& view, const Extents& extents) {
  if (!view.given()) return fail(kInvalid, name, "is absent", "a tensor " + extents.text());
  if (!extents.match(view)) fail(kInvalid, name, "has shape " + shape_text(view), extents.text());
}

void Check::rank(const char* name, const TensorView& view, int min, int max, const char* expected) {
  if (!view.given()) {
    fail(kInvalid, name, "is absent", std::string("a tensor ") + expected);
  } else if (view.rank < min || view.rank > max) {
    fail(kInvalid, name, "has shape " + shape_text(view), expected);
  }
}

void Check::dim(const char* argument, const char* name, int64_t value) {
  if (value >= 1 && value <= kMaxDim) return;
  fail(value < 1 ? kInvalid : StatusCode::kUnsupported, argument,
       std::string("has ") + name + " = " + std::to_string(value),
       "1 to " + std::to_string(kMaxDim));
}

void Check::compute(Compute value) {
  if (value == Compute::kAuto || value == Compute::kF32 || value == Compute::kBF16) return;
  fail(kInvalid, "compute", "is " + std::to_string(static_cast<int>(value)),
       "kAuto, kF32 or kBF16");
}

void Check::context_split(ContextSplit value) {
  if (value <= ContextSplit::kOff) return;
  fail(kInvalid, "context_split", "is " + std::to_string(static_cast<int>(value)),
       "kAuto, kFixed or kOff");
}

void Check::tensor(const char* name, const TensorView& view, const Extents& extents, DTypes dtypes,
                   Contiguous contiguous, Access access) {
  if (!ok()) return;
  shape(name, view, extents);
  if (!ok()) return;
  if (has_negative_extent(view)) {
    return fail(kInvalid, name, "has shape " + shape_text(view), "no negative extent");
  }
  if (has_too_many_elements(view)) {
    return fail(kInvalid, name, "has shape " + shape_text(view), "at most 2^48 elements");
  }
  if (!dtypes.has(view.dtype)) {
    return fail(kInvalid, name, std::string("has dtype ") + name_of(view.dtype), dtypes.text());
  }
  if (first_ == nullptr) {
    first_ = name;
    device_ = view.device;
  } else if (view.device != device_) {
    return fail(kInvalid, name, std::string("is on ") + name_of(view.device),
                std::string(name_of(device_)) + ", where " + first_ + " is");
  }
  if (view.size() == 0) return;
  if (view.data == nullptr) {
    return fail(kInvalid, name, "has a null pointer", "the data of shape " + shape_text(view));
  }
  if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(size_of(view.dtype)) != 0) {
    return fail(kInvalid, name, "is misaligned",
                "a multiple of " + std::to_string(size_of(view.dtype)) + " bytes, the size of " +
                    name_of(view.dtype));
  }
  const auto strides = [&] {
    return "has strides " + strides_text(view) + " for shape " + shape_text(view);
  };
  if (!is_contiguous(view, contiguous)) {
    return fail(kInvalid, name, strides(),
                contiguous == Contiguous::kLastAxis ? "a contiguous last axis"
                                                    : "axes after the first to be contiguous");
  }
  ByteRange range;
  if (!byte_range(view, &range)) {
    return fail(kInvalid, name, strides(), "memory that fits in an address space");
  }
  if (access == Access::kWrite && overlaps_itself(view)) {
    return fail(kInvalid, name, strides(), "elements that do not overlap");
  }
  if (access != Access::kShared && count_ < static_cast<int>(std::size(entries_))) {
    entries_[count_++] = {name, &view, range, access == Access::kWrite};
  }
}

void Check::rows(const char* name, const TensorView& view) {
  rank(name, view, 1, 4, "[...,D] of 1 to 4 axes");
  if (!ok()) return;
  tensor(name, view, Extents::of(view, view.rank), DTypes::floats(), Contiguous::kLastAxis,
         Access::kRead);
  if (view.shape[view.rank - 1] < 1) fail(kInvalid, name, "has D = 0", "at least 1");
}

void Check::index_tensor(const char* name, const TensorView& view, const Extents& extents) {
  tensor(name, view, extents, DTypes::indices(), Contiguous::kNone, Access::kRead);
}

void Check::given_with(const char* name, const TensorView& view, const char* with) {
  if (!view.given()) {
    fail(kInvalid, name, "is absent", std::string("it with ") + with);
  }
}

void Check::not_given(const char* name, const TensorView& view, const char* reason) {
  if (view.given()) fail(kInvalid, name, "is given", reason);
}

void Check::at_least(const char* name, int64_t value, int64_t least) {
  if (value < least) {
    fail(kInvalid, name, "is " + std::to_string(value), "at least " + std::to_string(least));
  }
}

// Written so that NaN fails.
void Check::finite(const char* name, double value) {
  if (!(std::fabs(value) <= static_cast<double>(FLT_MAX))) {
    fail(kInvalid, name, "is " + number_text(value), "a finite float32");
  }
}

void Check::not_negative(const char* name, double value) {
  if (!(value >= 0.0 && value <= static_cast<double>(FLT_MAX))) {
    fail(kInvalid, name, "is " + number_text(value), "a finite float32 of at least 0");
  }
}

void Check::positive(const char* name, double value) {
  if (!(value > 0.0 && value <= static_cast<double>(FLT_MAX))) {
    fail(kInvalid, name, "is " + number_text(value), "a finite float32 above 0");
  }
}

void Check::overlaps() {
  if (!ok()) return;
  for (int i = 0; i < count_; ++i) {
    if (!entries_[i].written) continue;
    for (int j = 0; j < count_; ++j) {
      if (j == i || (entries_[j].written && j > i)) continue;  // a written pair once
      if (!entries_[i].range.meets(entries_[j].range)) continue;
      if (!overlap(*entries_[i].view, *entries_[j].view)) continue;
      return fail(kInvalid, entries_[i].name, std::string("overlaps ") + entries_[j].name,
                  "memory of its own");
    }
  }
}

bool same_tensor(const TensorView& a, const TensorView& b) {
  if (a.data != b.data || a.dtype != b.dtype || a.rank != b.rank) return false;
  for (int i = 0; i < a.rank && i < TensorView::kMaxRank; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
    if (a.shape[i] > 1 && a.strides[i] != b.strides[i]) return false;
  }
  return true;
}

std::byte* data_of(const TensorView& view) {
  if (!view.given()) return nullptr;
  return view.data != nullptr ? static_cast<std::byte*>(view.data) : no_elements;
}

TokenTensor token_tensor(const TensorView& view) {
  if (!view.given()) return {};
  return {data_of(view), view.dtype, view.strides[0], view.strides[1], view.strides[2]};
}

FloatVector float_vector(const TensorView& view) {
  if (!view.given()) return {};
  return {data_of(view), view.dtype, view.strides[0]};
}

IndexTensor index_tensor(const TensorView& view) {
  if (!view.given()) return {};
  const bool matrix = view.rank == 2;
  return {data_of(view), view.dtype, view.strides[0], matrix ? view.strides[1] : 0,
          matrix ? view.shape[1] : 0};
}

int64_t leading_axes(const TensorView& view, int count, int64_t (&extents)[3]) {
  int64_t product = 1;
  for (int i = 0; i < count; ++i) {
    extents[3 - count + i] = view.shape[i];
    product *= view.shape[i];
  }
  return product;
}

void leading_strides(const TensorView& view, int count, int64_t (&strides)[3]) {
  for (int i = 0; i < count; ++i) strides[3 - count + i] = view.strides[i];
}

SlotTensor slot_tensor(const TensorView& view) {
  if (!view.given()) return {};
  return {data_of(view), view.dtype, view.shape[0], view.strides[0]};
}

}  // namespace gdn
