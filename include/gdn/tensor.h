// TensorView: how a caller shows a tensor to the library. A view owns nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace gdn {

enum class DType : uint8_t {
  kF32,
  kBF16,
  kF16,
  kI32,
  kI64,
  kBool,
  // No operator takes these: they are for bindings, whose users may give any tensor, so that the
  // message can say what was given.
  kF64,
  kI16,
  kI8,
  kU8,
  kOther,
};

// Bytes of one element; 0 for kOther. One digit a dtype, in their order: GPU kernels ask it at
// every access, where a switch is twenty branches.
constexpr int64_t size_of(DType dtype) {
  return static_cast<int64_t>(0x1128184224 >> (4 * static_cast<int>(dtype)) & 15);
}
static_assert(size_of(DType::kF32) == 4 && size_of(DType::kBF16) == 2 &&
              size_of(DType::kF16) == 2 && size_of(DType::kF64) == 8 && size_of(DType::kI64) == 8 &&
              size_of(DType::kI32) == 4 && size_of(DType::kI16) == 2 && size_of(DType::kI8) == 1 &&
              size_of(DType::kU8) == 1 && size_of(DType::kBool) == 1 &&
              size_of(DType::kOther) == 0);

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    case DType::kI32:
      return "int32";
    case DType::kI64:
      return "int64";
    case DType::kBool:
      return "bool";
    case DType::kF64:
      return "float64";
    case DType::kI16:
      return "int16";
    case DType::kI8:
      return "int8";
    case DType::kU8:
      return "uint8";
    case DType::kOther:
      return "of another kind";
  }
  return "?";
}

enum class DeviceType : uint8_t { kCPU, kCUDA };

// Pointer, dtype, device, shape and strides (in elements) of a tensor. A default-constructed view
// is "not given". Inputs are never written through their view, whatever the constness of the
// pointer.
struct TensorView {
  static constexpr int kMaxRank = 6;

  void* data = nullptr;
  DType dtype = DType::kF32;
  DeviceType device = DeviceType::kCPU;
  int rank = -1;  // -1: not given
  int64_t shape[kMaxRank] = {};
  int64_t strides[kMaxRank] = {};

  TensorView() = default;

  // A contiguous tensor on the CPU. At most kMaxRank axes; a longer list gives a view of rank
  // kMaxRank + 1, which every operator refuses.
  TensorView(const void* pointer, DType type, std::initializer_list<int64_t> extents)
      : data(const_cast<void*>(pointer)), dtype(type), rank(static_cast<int>(extents.size())) {
    if (rank > kMaxRank) {
      rank = kMaxRank + 1;
      return;
    }
    int i = 0;
    for (int64_t extent : extents) shape[i++] = extent;
    make_contiguous();
  }
  TensorView(const float* pointer, std::initializer_list<int64_t> extents)
      : TensorView(pointer, DType::kF32, extents) {}
  TensorView(const int32_t* pointer, std::initializer_list<int64_t> extents)
      : TensorView(pointer, DType::kI32, extents) {}
  TensorView(const int64_t* pointer, std::initializer_list<int64_t> extents)
      : TensorView(pointer, DType::kI64, extents) {}
  TensorView(const bool* pointer, std::initializer_list<int64_t> extents)
      : TensorView(pointer, DType::kBool, extents) {}

  // Sets the strides to those of a contiguous tensor of this shape. Extents may be any nonsense:
  // strides that do not fit are the largest number, which the checks refuse.
  void make_contiguous() {
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; --i) {
      strides[i] = stride;
      if (shape[i] > 1) stride = stride > INT64_MAX / shape[i] ? INT64_MAX : stride * shape[i];
    }
  }

  // The same tensor with other strides (in elements), one per axis; with more or fewer a view that
  // every operator refuses.
  TensorView with_strides(std::initializer_list<int64_t> new_strides) const {
    TensorView view = *this;
    if (static_cast<int>(new_strides.size()) != rank) {
      view.rank = kMaxRank + 1;
      return view;
    }
    int i = 0;
    for (int64_t stride : new_strides) view.strides[i++] = stride;
    return view;
  }

  bool given() const { return rank >= 0; }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank && i < kMaxRank; ++i) n *= shape[i];
    return n;
  }
};

}  // namespace gdn
