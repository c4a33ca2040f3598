"""The gates: g = -exp(A_log) softplus(a + dt_bias) and beta = sigmoid(b), in float32.

softplus(x) = log1p(exp(softplus_beta x)) / softplus_beta where softplus_beta x is at most
softplus_threshold, else x (Mamba-2's decay).
"""

import torch
from torch import Tensor

from .check import Check
from .without_gradient import without_gradient


def log_decay(
    A_log: Tensor,
    a: Tensor,
    dt_bias: Tensor | None = None,
    softplus_beta: float = 1.0,
    softplus_threshold: float = 20.0,
) -> Tensor:
    """A_log, dt_bias: float [HV]; a: float [...,HV]. Returns g: float32 [...,HV]."""
    x = a.float() if dt_bias is None else a.float() + dt_bias.float()
    scaled = softplus_beta * x
    curved = torch.log1p(torch.exp(scaled.clamp(max=softplus_threshold))) / softplus_beta
    return -torch.exp(A_log.float()) * torch.where(scaled <= softplus_threshold, curved, x)


def write_strength(b: Tensor, allow_neg_eigval: bool = False) -> Tensor:
    """b: float [...,HV]. Returns beta: float32 [...,HV], doubled by allow_neg_eigval."""
    beta = torch.sigmoid(b.float())
    return beta * 2 if allow_neg_eigval else beta


@without_gradient
def gating(
    a: Tensor,
    A_log: Tensor,
    dt_bias: Tensor | None = None,
    b: Tensor | None = None,
    *,
    softplus_beta: float = 1.0,
    softplus_threshold: float = 20.0,
    allow_neg_eigval: bool = False,
    beta_dtype: torch.dtype | None = None,
    force_kernel: str | None = None,
) -> tuple[Tensor, Tensor]:
    """torch.ops.gdn.gating: g, and beta in beta_dtype (float32 unless given; empty without b)."""
    check = Check("gdn.gating")
    check.tensor("a", a, ["B", "T", "HV"])
    check.tensor("A_log", A_log, a.shape[-1:])
    check.tensor("dt_bias", dt_bias, a.shape[-1:])
    check.tensor("b", b, a.shape)
    check.softplus(softplus_beta, softplus_threshold)
    g = log_decay(A_log, a, dt_bias, softplus_beta, softplus_threshold)
    if b is None:
        return g, g.new_empty(0)
    return g, write_strength(b, allow_neg_eigval).to(beta_dtype or torch.float32)
