// What every check is made of: one style of message, the rules that hold for any tensor, and the
// conversions to the tensors of a problem.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "check/overlap.h"
#include "gdn/plan.h"
#include "gdn/status.h"
#include "gdn/tensor.h"
#include "problem.h"

namespace gdn {

// An expected extent: a number, or the name of one that is free.
struct Extent {
  int64_t value = 0;
  const char* name = nullptr;  // given: free

  Extent() = default;
  Extent(int64_t n) : value(n) {}
  Extent(const char* free_name) : name(free_name) {}
};

// An expected shape.
class Extents {
 public:
  Extents(std::initializer_list<Extent> items);
  // The shape of the first `rank` axes of a tensor.
  static Extents of(const TensorView& view, int rank);
  // The same, or without the last axis.
  Extents last_optional() const;

  bool match(const TensorView& view) const;
  std::string text() const;

 private:
  Extents() = default;
  std::array<Extent, TensorView::kMaxRank> items_;
  int rank_ = 0;
  bool last_optional_ = false;
};

// An expected dtype: one of a set.
class DTypes {
 public:
  static DTypes floats() { return {bit(DType::kF32) | bit(DType::kBF16) | bit(DType::kF16)}; }
  static DTypes indices() { return {bit(DType::kI32) | bit(DType::kI64)}; }
  static DTypes boolean() { return {bit(DType::kBool)}; }
  static DTypes f32() { return {bit(DType::kF32)}; }
  // The dtype of the argument called `owner`, and no other.
  static DTypes same_as(DType dtype, const char* owner) { return {bit(dtype), owner}; }
  static DTypes same_or_f32(DType dtype) { return {bit(dtype) | bit(DType::kF32)}; }

  bool has(DType dtype) const { return static_cast<int>(dtype) < 32 && (mask_ & bit(dtype)) != 0; }
  std::string text() const;

 private:
  DTypes(uint32_t mask, const char* owner = nullptr) : mask_(mask), owner_(owner) {}
  static constexpr uint32_t bit(DType dtype) { return uint32_t{1} << static_cast<int>(dtype); }

  uint32_t mask_;
  const char* owner_;
};

// Which axes must be contiguous.
enum class Contiguous : uint8_t {
  kNone,
  kLastAxis,
  kInsideSlots,  // all but the first
};

enum class Access : uint8_t {
  kRead,
  kWrite,   // also updated in place: overlaps neither itself nor any other tensor of the call
  kShared,  // the same tensor is registered under another name
};

// The checks of one call. The first problem sticks and later ones are ignored; nothing is allocated
// before there is one.
class Check {
 public:
  explicit Check(Op op) : op_(op) {}

  bool ok() const { return status_.ok(); }
  Status take() { return std::move(status_); }

  // "gdn.<op>: <argument> <got>, expected <expected>"
  void fail(StatusCode code, std::string_view argument, std::string_view got,
            std::string_view expected);

  // Given, and of that shape: what tensor() begins with.
  void shape(const char* name, const TensorView& view, const Extents& extents);
  void rank(const char* name, const TensorView& view, int min, int max, const char* expected);
  // Everything about a tensor but its values and its neighbours. An absent one is a problem.
  void tensor(const char* name, const TensorView& view, const Extents& extents, DTypes dtypes,
              Contiguous contiguous, Access access);
  // float [...,D] of 1 to 4 axes with D >= 1: the rows of an operator on rows.
  void rows(const char* name, const TensorView& view);
  // Index tensors, of any strides.
  void index_tensor(const char* name, const TensorView& view, const Extents& extents);

  // One given, the other not.
  void given_with(const char* name, const TensorView& view, const char* with);
  void not_given(const char* name, const TensorView& view, const char* reason);

  void at_least(const char* name, int64_t value, int64_t least);
  // A dimension with a limit: 1 to 256.
  void dim(const char* argument, const char* name, int64_t value);
  void compute(Compute value);
  void context_split(ContextSplit value);
  // Options become floats: they must fit in one.
  void finite(const char* name, double value);
  void not_negative(const char* name, double value);
  void positive(const char* name, double value);

  // No written tensor overlaps another of the call's. Comes after all tensors.
  void overlaps();

  // Whether values stored in tensors can be read: they are on the host, and all is well so far.
  bool can_read_values() const { return ok() && device_ == DeviceType::kCPU; }
  DeviceType device() const { return device_; }

 private:
  struct Entry {
    const char* name;
    const TensorView* view;
    ByteRange range;
    bool written;
  };

  Op op_;
  Status status_;
  const char* first_ = nullptr;  // the tensor whose device the others share
  DeviceType device_ = DeviceType::kCPU;
  Entry entries_[32];  // twice as many as an operator has
  int count_ = 0;
};

// "[2,3]", "name[2]" and "name[2,3]".
std::string shape_text(const TensorView& view);
std::string strides_text(const TensorView& view);
std::string element_text(std::string_view name, int64_t i);
std::string element_text(std::string_view name, int64_t i, int64_t j);
std::string number_text(double value);

// Same data, dtype, shape and strides.
bool same_tensor(const TensorView& a, const TensorView& b);

// Of tensors that passed; a tensor without elements gets an address, so that it counts as given.
// An absent view gives an absent tensor.
TokenTensor token_tensor(const TensorView& view);
FloatVector float_vector(const TensorView& view);
IndexTensor index_tensor(const TensorView& view);
SlotTensor slot_tensor(const TensorView& view);
std::byte* data_of(const TensorView& view);

// The first `count` axes, at most 3, at the end of extents or strides whose beginning stays at its
// default. Returns the product of the extents.
int64_t leading_axes(const TensorView& view, int count, int64_t (&extents)[3]);
void leading_strides(const TensorView& view, int count, int64_t (&strides)[3]);

}  // namespace gdn
