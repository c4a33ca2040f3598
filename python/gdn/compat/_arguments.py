"""From arguments as these modules take them to those of torch.ops.gdn."""

import torch
from torch import Tensor

from .._arguments import last_contiguous

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def operands(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of one dtype that the operators know: as they are, or in float32."""
    if not (q.dtype == k.dtype == v.dtype and q.dtype in FLOATS):
        q, k, v = q.float(), k.float(), v.float()
    return last_contiguous(q), last_contiguous(k), last_contiguous(v)


def gates(g: Tensor, beta: Tensor | None, q: Tensor) -> tuple[Tensor, Tensor | None]:
    """g in float32; beta in q's dtype or float32."""
    if beta is not None and beta.dtype != q.dtype:
        beta = beta.float()
    return g.float(), beta


def without_gaps(slots: Tensor) -> Tensor:
    """A pool whose slots lie at any stride, each contiguous inside; a copy where they are not."""
    inner = 1
    for size, stride in zip(slots.shape[:0:-1], slots.stride()[:0:-1]):
        if size > 1 and stride != inner:
            return slots.contiguous()
        inner *= size
    return slots
