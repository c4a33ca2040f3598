"""Gates, norms and the triangular solve."""

import torch

from . import ops
from ._arguments import last_contiguous, require_tensors, unsupported


def fused_gdn_gating(A_log, a, b, dt_bias, beta=1.0, threshold=20.0):
    """The gates of a layer, with vLLM's signature:

        g    = -exp(A_log) * softplus(a + dt_bias), softplus(x) = log1p(exp(beta x)) / beta where
               beta x <= threshold, else x
        beta = sigmoid(b)

    Args:
        A_log, dt_bias: float [HV]; dt_bias may be None.
        a, b: float [T,HV], or [B,T,HV].
        beta, threshold: of the softplus; beta > 0.

    Returns:
        g, float32 [1,T,HV] or [B,T,HV], and beta of the same shape and b's dtype.

    Raises:
        TypeError: a dtype. ValueError: a shape, a device, an option.
    """
    require_tensors("fused_gdn_gating", a=a, b=b)
    if a.dim() == 2:
        a, b = a.unsqueeze(0), b.unsqueeze(0)
    return ops.gating(
        a, A_log, dt_bias, b, softplus_beta=beta, softplus_threshold=threshold, beta_dtype=b.dtype
    )


def l2norm(x, eps=1e-6, output_dtype=None):
    """x / sqrt(sum x^2 + eps) over the last axis, computed in float32, with
    flash-linear-attention's signature.

    Args:
        x: float [...,D], 1 to 4 axes.
        output_dtype: a float dtype; None: that of x.

    Raises:
        TypeError: a dtype. ValueError: a shape, eps < 0.
    """
    require_tensors("l2norm", x=x)
    if output_dtype in (None, x.dtype):
        return ops.l2norm(last_contiguous(x), eps=eps)
    return ops.l2norm(last_contiguous(x).to(torch.float32), eps=eps).to(output_dtype)


def rms_norm_gated(
    x,
    g,
    weight,
    bias=None,
    activation="swish",
    residual=None,
    prenorm=False,
    residual_in_fp32=False,
    eps=1e-6,
):
    """x * rsqrt(mean x^2 + eps) * weight * silu(g) over the last axis, computed in float32, with
    flash-linear-attention's signature.

    Args:
        x, g: float [...,D], 1 to 4 axes, of one dtype.
        weight: float [D].
        activation: "swish" or "silu", which are the same.
        bias, residual, prenorm, residual_in_fp32: not supported.

    Returns:
        A tensor of x's shape and dtype.

    Raises:
        TypeError: a dtype. ValueError: a shape, a device, eps < 0. NotImplementedError: what is not
            supported.
    """
    unsupported(
        "rms_norm_gated",
        bias=bias,
        residual=residual,
        prenorm=prenorm,
        residual_in_fp32=residual_in_fp32,
    )
    if activation not in ("swish", "silu"):
        raise ValueError(
            f'gdn.rms_norm_gated: activation is {activation!r}, expected "swish" or "silu"'
        )
    return ops.rms_norm_gated(last_contiguous(x), last_contiguous(g), weight, eps=eps)


def solve_tril(lower, method="exact", iterations=14, return_residual=False, compute="auto"):
    """The inverse of unit lower triangular matrices. Only what lies strictly below the diagonal is
    read.

    Args:
        lower: float [...,n,n], 2 to 5 axes, n from 1 to 256.
        method: "exact", blocked forward substitution; or "neumann",
            X <- X - X strict_lower(L X) from X = I, `iterations` times, for study: its
            intermediates explode where keys are alike.
        return_residual: also max |strict_lower(L X)| of each matrix, float32 [...].
        compute: "auto" and "float32" compute in float32 and round once; "bfloat16" (method
            "neumann" with bfloat16 tensors alone) rounds in every iteration.

    Returns:
        The inverse, of lower's shape and dtype; with return_residual a pair.

    Raises:
        TypeError: a dtype. ValueError: a shape, an option.
    """
    inverse, residual = ops.solve_tril(
        last_contiguous(lower),
        method=method,
        iterations=iterations,
        output_residual=return_residual,
        compute=compute,
    )
    return (inverse, residual) if return_residual else inverse
