// Arguments from, and results to, the stack of a boxed kernel. What is on it belongs to the kernel,
// so all of it is read before anything can go wrong, into objects that free it.
//
// torch/csrc/stable has such conversions too. These make no copies (a decode step of one small head
// takes about a microsecond, and the call ought not to take much longer) and leak no strings.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "gdn/tensor.h"

namespace gdn::torch_binding {

// Throws where a call of PyTorch's C interface failed.
void require_ok(AOTITorchError error, const char* what);

// The device of a call's tensors: the CPU, or a GPU by its number.
struct Place {
  static constexpr int32_t kCPU = -1;
  int32_t gpu = kCPU;

  bool on_gpu() const { return gpu != kCPU; }
};

// An owned tensor and the view of it that the library takes.
class Tensor {
 public:
  Tensor() = default;  // absent
  explicit Tensor(AtenTensorHandle handle);
  Tensor(Tensor&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), view_(other.view_), place_(other.place_) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(view_, other.view_);
    std::swap(place_, other.place_);
    return *this;
  }
  ~Tensor() {
    if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
  }

  bool given() const { return handle_ != nullptr; }
  const TensorView& view() const { return view_; }
  Place place() const { return place_; }
  AtenTensorHandle handle() const { return handle_; }
  int32_t torch_dtype() const;
  // Gives the tensor away.
  AtenTensorHandle release() { return std::exchange(handle_, nullptr); }

 private:
  AtenTensorHandle handle_ = nullptr;
  TensorView view_;
  Place place_;
};

// A new contiguous tensor, with a dtype of PyTorch's. Not initialised.
Tensor new_tensor(const int64_t* shape, int rank, int32_t torch_dtype, Place place);
Tensor new_tensor(std::initializer_list<int64_t> shape, int32_t torch_dtype, Place place);
// What stands for a result that was not asked for.
Tensor empty_tensor(int32_t torch_dtype, Place place);

// A string argument.
class Text {
 public:
  explicit Text(StringHandle handle);
  Text(Text&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  ~Text() {
    if (handle_ != nullptr) torch_delete_string(handle_);
  }
  // Zero-terminated.
  const char* c_str() const;
  std::string_view view() const { return c_str(); }

 private:
  StringHandle handle_;
};

// Reads arguments one after the other, in the order of the schema.
class Arguments {
 public:
  explicit Arguments(StableIValue* stack) : next_(stack) {}

  Tensor tensor() { return noted(Tensor(take<AtenTensorHandle>())); }
  Tensor optional_tensor() {
    const std::optional<AtenTensorHandle> handle = optional<AtenTensorHandle>();
    return handle ? noted(Tensor(*handle)) : Tensor();
  }
  bool boolean() { return take<bool>(); }
  int64_t integer() { return take<int64_t>(); }
  std::optional<int64_t> optional_integer() { return optional<int64_t>(); }
  double number() { return take<double>(); }
  std::optional<double> optional_number() { return optional<double>(); }
  std::optional<int32_t> optional_dtype() { return optional<int32_t>(); }
  Text text() { return Text(take<StringHandle>()); }
  std::optional<Text> optional_text() {
    const std::optional<StringHandle> handle = optional<StringHandle>();
    return handle ? std::optional<Text>(Text(*handle)) : std::nullopt;
  }

  // Where the tensors read so far are: on a GPU when one of them is, for PyTorch calls its kernel
  // then, and the checks see which are elsewhere. `op` begins the message that they are on two
  // GPUs, which the checks do not see.
  Place place(const char* op) const;

 private:
  // A value lies in the first bytes of its slot (the library is for little-endian machines).
  template <class T>
  static T decode(StableIValue value) {
    T decoded;
    static_assert(sizeof decoded <= sizeof value);
    std::memcpy(&decoded, &value, sizeof decoded);
    return decoded;
  }
  template <class T>
  T take() {
    return decode<T>(*next_++);
  }
  // An optional value lies on the heap.
  template <class T>
  std::optional<T> optional() {
    auto* place = take<StableIValue*>();
    if (place == nullptr) return std::nullopt;
    const T value = decode<T>(*place);
    delete place;
    return value;
  }

  Tensor noted(Tensor tensor) {
    const Place found = tensor.place();
    if (!place_.on_gpu()) place_ = found;
    if (found.on_gpu() && found.gpu != place_.gpu) other_ = found;
    return tensor;
  }

  StableIValue* next_;
  Place place_, other_;
};

template <class T>
StableIValue encode(T value) {
  StableIValue encoded = 0;
  static_assert(sizeof value <= sizeof encoded);
  std::memcpy(&encoded, &value, sizeof value);
  return encoded;
}
inline StableIValue result(Tensor tensor) { return encode(tensor.release()); }
StableIValue result(const std::string& text);

}  // namespace gdn::torch_binding
