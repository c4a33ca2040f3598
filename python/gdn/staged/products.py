"""Products that the compute dtype reaches: operands float32, or rounded to bfloat16; result
float32.

On most devices a bfloat16 product rounds its result as well as its operands, each by 1.7e-3.
Measured (300 tokens, d 128) the products with the state and Q K^T can bear that: outputs come
within 3.2e-3, states within 1.6e-3 on keys with a common direction. The others cannot. What goes
into the solve, what comes out of it and what is added to the state cancel where keys are alike, and
rounding any of them costs 4e-3 to 1.3e-2 there: they are float32 always.
"""

import torch
from torch import Tensor


def matmul(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    return (a.to(dtype) @ b.to(dtype)).float()
