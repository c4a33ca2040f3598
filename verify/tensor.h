// Tensor: a host tensor that owns its memory, for tests and for `gdn verify`. Its memory starts as
// bytes of ones, which every float dtype reads as NaN, and lies between guard bytes of the same
// pattern, so that what a kernel did not write, wrote in a gap or past an end, or read where
// nothing is, shows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "gdn/tensor.h"

namespace gdn::verify {

// Memory aligned to 64 bytes, guarded and filled as said above.
class Buffer {
 public:
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  bool guards_intact() const;
  void fill_nan();

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Where a tensor lies in its buffer.
struct Placement {
  std::vector<int64_t> strides;  // in elements; empty: contiguous
  int64_t offset = 0;            // elements before the first one
};

// Copies share the memory; clone() does not. Elements are numbered in row-major order of the shape.
class Tensor {
 public:
  Tensor() = default;  // "not given"
  Tensor(DType dtype, std::vector<int64_t> shape, Placement placement = {});
  // A part of a larger buffer, which has room for it.
  Tensor(std::shared_ptr<Buffer> buffer, DType dtype, std::vector<int64_t> shape,
         Placement placement);
  // A copy of what a view shows, contiguous.
  static Tensor copy_of(const TensorView& view);

  bool given() const { return buffer_ != nullptr; }
  DType dtype() const { return dtype_; }
  int rank() const { return static_cast<int>(shape_.size()); }
  int64_t extent(int axis) const { return shape_[static_cast<size_t>(axis)]; }
  const std::vector<int64_t>& shape() const { return shape_; }
  const std::vector<int64_t>& strides() const { return strides_; }
  int64_t size() const { return size_; }
  TensorView view() const;
  Buffer& buffer() { return *buffer_; }
  const Buffer& buffer() const { return *buffer_; }
  Tensor clone() const;  // the whole buffer with it

  // Float dtypes. set() rounds once, to float32 and then as half.h does for 16 bits.
  double get(int64_t i) const;
  void set(int64_t i, double value);
  std::vector<double> to_doubles() const;
  void from_doubles(const std::vector<double>& values);
  // Integers and bool.
  int64_t get_int(int64_t i) const;
  void set_int(int64_t i, int64_t value);

  std::byte* element(int64_t i) { return buffer_->data() + place(i); }
  const std::byte* element(int64_t i) const { return buffer_->data() + place(i); }
  // Still the bytes of ones it was filled with: no arithmetic gives this NaN.
  bool unwritten(int64_t i) const;
  bool same_bits(int64_t i, const Tensor& other, int64_t j) const;
  void copy_element(int64_t i, const Tensor& from, int64_t j);  // of the same dtype

  // Guards, and every byte that belongs to no element of this tensor, are as in `before`, an
  // earlier clone.
  bool only_elements_changed(const Tensor& before) const;

 private:
  size_t place(int64_t i) const;

  std::shared_ptr<Buffer> buffer_;
  DType dtype_ = DType::kF32;
  std::vector<int64_t> shape_, strides_;
  int64_t offset_ = 0;
  int64_t size_ = 0;
  bool contiguous_ = true;
};

}  // namespace gdn::verify
