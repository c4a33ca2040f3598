#include "verify/case_tensors.h"

#include <algorithm>
#include <memory>

namespace gdn::verify {

Random stream(const Case& c, Stream s, int64_t sequence) {
  return Random(c.seed, (static_cast<uint64_t>(c.first + sequence) << 8) + s);
}

std::vector<int64_t> padded_strides(const std::vector<int64_t>& shape, bool last_contiguous) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = last_contiguous ? 1 : 2;
  for (size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride = stride * std::max<int64_t>(1, shape[axis]) + 3;
  }
  return strides;
}

Tensor token_tensor(const Case& c, DType dtype, int64_t heads, int64_t dim) {
  const Layout layout(c);
  std::vector<int64_t> shape = {layout.batch, layout.rows, heads};
  if (dim > 0) shape.push_back(dim);
  Placement placement{{}, c.shift};
  if (c.strides == Strides::kPadded) placement.strides = padded_strides(shape, dim > 0);
  return Tensor(dtype, std::move(shape), std::move(placement));
}

Tensor small_tensor(const Case& c, DType dtype, std::vector<int64_t> shape) {
  Placement placement{{}, c.shift};
  if (c.strides == Strides::kPadded) placement.strides = padded_strides(shape, false);
  return Tensor(dtype, std::move(shape), std::move(placement));
}

Tensor cu_seqlens_tensor(const Case& c) {
  if (c.packing == Packing::kRows) return {};
  Tensor cu =
      small_tensor(c, c.packing == Packing::kCu64 ? DType::kI64 : DType::kI32, {c.sequences() + 1});
  int64_t begin = 0;
  for (int64_t n = 0; n <= c.sequences(); ++n) {
    cu.set_int(n, begin);
    if (n < c.sequences()) begin += c.lengths[static_cast<size_t>(n)];
  }
  return cu;
}

std::vector<Tensor> fused_tensors(const Case& c, DType dtype,
                                  const std::vector<std::pair<int64_t, int64_t>>& heads_and_dims) {
  const Layout layout(c);
  int64_t width = 0;
  for (const auto& [heads, dim] : heads_and_dims) width += heads * std::max<int64_t>(1, dim);
  const int64_t elements = c.shift + layout.batch * layout.rows * width;
  const auto buffer = std::make_shared<Buffer>(static_cast<size_t>(elements * size_of(dtype)));
  std::vector<Tensor> parts;
  int64_t offset = c.shift;
  for (const auto& [heads, dim] : heads_and_dims) {
    std::vector<int64_t> shape = {layout.batch, layout.rows, heads};
    std::vector<int64_t> strides = {layout.rows * width, width, std::max<int64_t>(1, dim)};
    if (dim > 0) {
      shape.push_back(dim);
      strides.push_back(1);
    }
    parts.emplace_back(buffer, dtype, std::move(shape), Placement{std::move(strides), offset});
    offset += heads * std::max<int64_t>(1, dim);
  }
  return parts;
}

std::vector<double> normals(Random* random, int64_t count) {
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = random->normal();
  return values;
}

}  // namespace gdn::verify
