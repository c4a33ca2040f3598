// A libtorch_cuda.so to link with, so that the package can be built with a PyTorch for the CPU
// alone. It is never loaded: at run time PyTorch's own has that name.
#include "torch_cuda.h"

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**) { return AOTI_TORCH_FAILURE; }
