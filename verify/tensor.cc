#include "verify/tensor.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "half.h"

namespace gdn::verify {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kGuard = 256;  // bytes on either side: more than any vector
constexpr std::byte kFill{0xff};

int64_t product(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (int64_t extent : shape) n *= extent;
  return n;
}

std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride *= std::max<int64_t>(1, shape[axis]);
  }
  return strides;
}

// Elements from the first to past the last.
int64_t span_of(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  if (product(shape) == 0) return 0;
  int64_t last = 0;
  for (size_t axis = 0; axis < shape.size(); ++axis) last += (shape[axis] - 1) * strides[axis];
  return last + 1;
}

}  // namespace

Buffer::Buffer(size_t bytes) : size_(bytes) {
  auto* all =
      static_cast<std::byte*>(::operator new(bytes + 2 * kGuard, std::align_val_t(kAlignment)));
  data_ = all + kGuard;
  std::fill_n(all, bytes + 2 * kGuard, kFill);
}

Buffer::~Buffer() { ::operator delete(data_ - kGuard, std::align_val_t(kAlignment)); }

void Buffer::fill_nan() { std::fill_n(data_, size_, kFill); }

bool Buffer::guards_intact() const {
  const auto intact = [](std::byte b) { return b == kFill; };
  return std::all_of(data_ - kGuard, data_, intact) &&
         std::all_of(data_ + size_, data_ + size_ + kGuard, intact);
}

Tensor::Tensor(DType dtype, std::vector<int64_t> shape, Placement placement)
    : dtype_(dtype), shape_(std::move(shape)), offset_(placement.offset), size_(product(shape_)) {
  const std::vector<int64_t> dense = contiguous_strides(shape_);
  contiguous_ = placement.strides.empty() || placement.strides == dense;
  strides_ = contiguous_ ? dense : std::move(placement.strides);
  const int64_t elements = offset_ + span_of(shape_, strides_);
  buffer_ = std::make_shared<Buffer>(static_cast<size_t>(elements * size_of(dtype)));
}

Tensor::Tensor(std::shared_ptr<Buffer> buffer, DType dtype, std::vector<int64_t> shape,
               Placement placement)
    : buffer_(std::move(buffer)),
      dtype_(dtype),
      shape_(std::move(shape)),
      strides_(std::move(placement.strides)),
      offset_(placement.offset),
      size_(product(shape_)),
      contiguous_(strides_ == contiguous_strides(shape_)) {}

Tensor Tensor::copy_of(const TensorView& view) {
  Tensor copy(view.dtype, {view.shape, view.shape + view.rank});
  const auto bytes = static_cast<size_t>(size_of(view.dtype));
  for (int64_t i = 0; i < copy.size_; ++i) {
    int64_t rest = i, from = 0;
    for (int axis = view.rank; axis-- > 0;) {
      from += rest % view.shape[axis] * view.strides[axis];
      rest /= view.shape[axis];
    }
    std::memcpy(copy.element(i),
                static_cast<const std::byte*>(view.data) + from * size_of(view.dtype), bytes);
  }
  return copy;
}

TensorView Tensor::view() const {
  if (!given()) return {};
  TensorView view;
  view.data = buffer_->data() + offset_ * size_of(dtype_);
  view.dtype = dtype_;
  view.rank = rank();
  std::copy(shape_.begin(), shape_.end(), view.shape);
  std::copy(strides_.begin(), strides_.end(), view.strides);
  return view;
}

Tensor Tensor::clone() const {
  Tensor copy = *this;
  if (!given()) return copy;
  copy.buffer_ = std::make_shared<Buffer>(buffer_->size());
  std::memcpy(copy.buffer_->data(), buffer_->data(), buffer_->size());
  return copy;
}

size_t Tensor::place(int64_t i) const {
  int64_t at = offset_;
  if (contiguous_) {
    at += i;
  } else {
    for (size_t axis = shape_.size(); axis-- > 0;) {
      at += i % shape_[axis] * strides_[axis];
      i /= shape_[axis];
    }
  }
  return static_cast<size_t>(at * size_of(dtype_));
}

double Tensor::get(int64_t i) const { return load_float(element(i), dtype_); }

void Tensor::set(int64_t i, double value) {
  store_float(element(i), dtype_, static_cast<float>(value));
}

std::vector<double> Tensor::to_doubles() const {
  std::vector<double> values(static_cast<size_t>(size_));
  for (int64_t i = 0; i < size_; ++i) values[static_cast<size_t>(i)] = get(i);
  return values;
}

void Tensor::from_doubles(const std::vector<double>& values) {
  for (int64_t i = 0; i < size_; ++i) set(i, values[static_cast<size_t>(i)]);
}

int64_t Tensor::get_int(int64_t i) const {
  const std::byte* p = element(i);
  switch (dtype_) {
    case DType::kI64: {
      int64_t value;
      std::memcpy(&value, p, sizeof value);
      return value;
    }
    case DType::kI32: {
      int32_t value;
      std::memcpy(&value, p, sizeof value);
      return value;
    }
    default:
      return static_cast<int64_t>(*p);
  }
}

void Tensor::set_int(int64_t i, int64_t value) {
  std::byte* p = element(i);
  switch (dtype_) {
    case DType::kI64:
      std::memcpy(p, &value, sizeof value);
      return;
    case DType::kI32: {
      const auto narrow = static_cast<int32_t>(value);
      std::memcpy(p, &narrow, sizeof narrow);
      return;
    }
    default:
      *p = static_cast<std::byte>(value);
  }
}

bool Tensor::unwritten(int64_t i) const {
  const std::byte* p = element(i);
  return std::all_of(p, p + size_of(dtype_), [](std::byte b) { return b == kFill; });
}

bool Tensor::same_bits(int64_t i, const Tensor& other, int64_t j) const {
  return dtype_ == other.dtype_ &&
         std::memcmp(element(i), other.element(j), static_cast<size_t>(size_of(dtype_))) == 0;
}

void Tensor::copy_element(int64_t i, const Tensor& from, int64_t j) {
  std::memcpy(element(i), from.element(j), static_cast<size_t>(size_of(dtype_)));
}

bool Tensor::only_elements_changed(const Tensor& before) const {
  if (!buffer_->guards_intact()) return false;
  std::vector<bool> owned(buffer_->size());
  for (int64_t i = 0; i < size_; ++i) {
    const size_t at = place(i);
    for (size_t byte = 0; byte < static_cast<size_t>(size_of(dtype_)); ++byte)
      owned[at + byte] = true;
  }
  for (size_t byte = 0; byte < owned.size(); ++byte) {
    if (!owned[byte] && buffer_->data()[byte] != before.buffer_->data()[byte]) return false;
  }
  return true;
}

}  // namespace gdn::verify
