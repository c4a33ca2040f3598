// The one function of PyTorch's stable interface that is in libtorch_cuda.so, as
// torch/csrc/inductor/aoti_torch/c/shim.h declares it where USE_CUDA is defined.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

extern "C" AOTI_TORCH_EXPORT AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                               void** ret_stream);
