#include "stack.h"

#include <string>

#include "call.h"

namespace gdn::torch_binding {
namespace {

// PyTorch's numbers of the dtypes that the library can name.
struct DTypeNumbers {
  int32_t number[10] = {aoti_torch_dtype_float32(), aoti_torch_dtype_bfloat16(),
                        aoti_torch_dtype_float16(), aoti_torch_dtype_int32(),
                        aoti_torch_dtype_int64(),   aoti_torch_dtype_bool(),
                        aoti_torch_dtype_float64(), aoti_torch_dtype_int16(),
                        aoti_torch_dtype_int8(),    aoti_torch_dtype_uint8()};
  int32_t cpu = aoti_torch_device_type_cpu();
  int32_t cuda = aoti_torch_device_type_cuda();
};
const DTypeNumbers& numbers() {
  static const DTypeNumbers all;
  return all;
}
static_assert(static_cast<int>(DType::kF32) == 0 && static_cast<int>(DType::kBool) == 5 &&
              static_cast<int>(DType::kU8) == 9);

DType dtype_of(int32_t torch_dtype) {
  const DTypeNumbers& all = numbers();
  for (int i = 0; i < 10; ++i) {
    if (all.number[i] == torch_dtype) return static_cast<DType>(i);
  }
  return DType::kOther;
}

TensorView view_of(AtenTensorHandle handle, Place* place) {
  TensorView view;
  int64_t rank = 0, *sizes = nullptr, *strides = nullptr;
  int32_t dtype = 0, device = 0;
  require_ok(aoti_torch_get_dim(handle, &rank), "the rank of a tensor");
  require_ok(aoti_torch_get_dtype(handle, &dtype), "the dtype of a tensor");
  require_ok(aoti_torch_get_device_type(handle, &device), "the device of a tensor");
  view.dtype = dtype_of(dtype);
  if (device == numbers().cuda) {
    view.device = DeviceType::kCUDA;
    require_ok(aoti_torch_get_device_index(handle, &place->gpu), "the device of a tensor");
  }
  if (rank > TensorView::kMaxRank) {
    view.rank = TensorView::kMaxRank + 1;  // which every operator refuses
    return view;
  }
  view.rank = static_cast<int>(rank);
  require_ok(aoti_torch_get_sizes(handle, &sizes), "the shape of a tensor");
  require_ok(aoti_torch_get_strides(handle, &strides), "the strides of a tensor");
  for (int i = 0; i < view.rank; ++i) {
    view.shape[i] = sizes[i];
    view.strides[i] = strides[i];
  }
  require_ok(aoti_torch_get_data_ptr(handle, &view.data), "the memory of a tensor");
  return view;
}

}  // namespace

void require_ok(AOTITorchError error, const char* what) {
  if (error != AOTI_TORCH_SUCCESS) {
    fail(StatusCode::kInternal, std::string("gdn: PyTorch did not give ") + what);
  }
}

Tensor::Tensor(AtenTensorHandle handle) : handle_(handle) {
  try {
    view_ = view_of(handle, &place_);
  } catch (...) {
    aoti_torch_delete_tensor_object(handle_);
    throw;
  }
}

int32_t Tensor::torch_dtype() const {
  int32_t dtype = 0;
  require_ok(aoti_torch_get_dtype(handle_, &dtype), "the dtype of a tensor");
  return dtype;
}

Tensor new_tensor(const int64_t* shape, int rank, int32_t torch_dtype, Place place) {
  int64_t strides[TensorView::kMaxRank];
  int64_t stride = 1;
  for (int i = rank - 1; i >= 0; --i) {
    strides[i] = stride;
    if (shape[i] > 1) stride *= shape[i];
  }
  AtenTensorHandle handle = nullptr;
  const int32_t device = place.on_gpu() ? numbers().cuda : numbers().cpu;
  const int32_t index = place.on_gpu() ? place.gpu : 0;
  if (aoti_torch_empty_strided(rank, shape, strides, torch_dtype, device, index, &handle) !=
      AOTI_TORCH_SUCCESS) {
    fail(StatusCode::kOutOfMemory,
         "gdn: could not allocate a tensor of " + std::to_string(stride) + " elements" +
             (place.on_gpu() ? " on cuda:" + std::to_string(place.gpu) : ""));
  }
  return Tensor(handle);
}

Tensor new_tensor(std::initializer_list<int64_t> shape, int32_t torch_dtype, Place place) {
  return new_tensor(shape.begin(), static_cast<int>(shape.size()), torch_dtype, place);
}

Tensor empty_tensor(int32_t torch_dtype, Place place) {
  return new_tensor({0}, torch_dtype, place);
}

Place Arguments::place(const char* op) const {
  if (other_.on_gpu()) {
    fail(StatusCode::kInvalidArgument,
         std::string(op) + ": tensors are on cuda:" + std::to_string(place_.gpu) +
             " and cuda:" + std::to_string(other_.gpu) + ", expected one device");
  }
  return place_;
}

Text::Text(StringHandle handle) : handle_(handle) {}

const char* Text::c_str() const {
  const char* text = nullptr;
  require_ok(torch_string_c_str(handle_, &text), "a string");
  return text;
}

StableIValue result(const std::string& text) {
  StringHandle handle = nullptr;
  require_ok(torch_new_string_handle(text.data(), text.size(), &handle), "a string");
  return encode(handle);
}

}  // namespace gdn::torch_binding
