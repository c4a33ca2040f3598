import torch

# Tensors here are small, and a machine that runs tests is shared.
torch.set_num_threads(1)
