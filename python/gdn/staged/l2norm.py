"""y = x / sqrt(sum x^2 + eps) over the last axis, in float32."""

import torch
from torch import Tensor

from .check import Check
from .without_gradient import without_gradient


@without_gradient
def l2norm(x: Tensor, *, eps: float = 1e-6, force_kernel: str | None = None) -> Tensor:
    """torch.ops.gdn.l2norm. x, y: float [...,D]; y has x's dtype."""
    check = Check("gdn.l2norm")
    check.rows("x", x)
    check.not_negative("eps", eps)
    return l2norm_f32(x, eps).to(x.dtype)


def l2norm_f32(x: Tensor, eps: float = 1e-6) -> Tensor:
    x = x.float()
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) + eps)
