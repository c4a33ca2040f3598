"""y = x * rsqrt(mean x^2 + eps) * weight * silu(z) over the last axis, in float32: the norm at the
end of a Gated DeltaNet layer."""

import torch
from torch import Tensor

from .check import Check
from .without_gradient import without_gradient


@without_gradient
def rms_norm_gated(
    x: Tensor, z: Tensor, weight: Tensor, *, eps: float = 1e-6, force_kernel: str | None = None
) -> Tensor:
    """torch.ops.gdn.rms_norm_gated. x, z, y: float [...,D]; weight: float [D]."""
    check = Check("gdn.rms_norm_gated")
    check.rows("x", x)
    check.tensor("z", z, x.shape, (x.dtype,), "x")
    check.tensor("weight", weight, x.shape[-1:])
    check.not_negative("eps", eps)
    x32 = x.float()
    y = x32 * torch.rsqrt((x32 * x32).mean(-1, keepdim=True) + eps)
    return (y * weight.float() * torch.nn.functional.silu(z.float())).to(x.dtype)
