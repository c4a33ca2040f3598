"""The inverse of unit lower triangular matrices L [...,n,n]; only the strictly lower part is read.

exact    blocked forward substitution: rows inside a block of 16, matrix products between blocks.
neumann  X <- X - X strict_lower(L X) from X = I. Newton's iteration: exact after ceil(log2 n) steps
         on paper, but its intermediates explode where keys are alike. For study and for those who
         ask for it.

Both compute in float32 whatever the dtype of L, and return float32.
"""

import torch
from torch import Tensor

from .check import COMPUTES, Check
from .without_gradient import without_gradient

METHODS = ("exact", "neumann")
BLOCK = 16
"""Rows that are substituted one by one: as few as keep the products between blocks worth a call."""


def solve_exact(lower: Tensor) -> Tensor:
    n = lower.shape[-1]
    block = max(min(n, BLOCK), 1)
    blocks = -(-n // block)
    A = torch.tril(lower.float(), diagonal=-1)
    if n % block:  # with zeros: rows of the identity, that no other row sees
        A = torch.nn.functional.pad(A, (0, blocks * block - n) * 2)
    # The blocks on the diagonal, [...,blocks,block,block].
    tiles = A.reshape(*A.shape[:-2], blocks, block, blocks, block)
    diagonal = _invert_rows(torch.stack([tiles[..., i, :, i, :] for i in range(blocks)], dim=-3))

    # Row of blocks i of X: -X_ii sum over j < i of A_ij X_j, then X_ii.
    done = diagonal[..., 0, :, :]
    for i in range(1, blocks):
        begin, end = i * block, (i + 1) * block
        X_ii = diagonal[..., i, :, :]
        left = -(X_ii @ (A[..., begin:end, :begin] @ done))
        above = torch.nn.functional.pad(done, (0, block))
        done = torch.cat([above, torch.cat([left, X_ii], -1)], -2)
    return done[..., :n, :n]


def _invert_rows(A: Tensor) -> Tensor:
    """(I + A)^-1 row by row: X_i = e_i - sum over j < i of A_ij X_j."""
    n = A.shape[-1]
    eye = torch.eye(n, dtype=A.dtype, device=A.device)
    X = eye[:1].expand(*A.shape[:-2], 1, n)
    for i in range(1, n):
        X = torch.cat([X, eye[i : i + 1] - A[..., i : i + 1, :i] @ X], dim=-2)
    return X


def solve_neumann(
    lower: Tensor, iterations: int = 14, dtype: torch.dtype = torch.float32
) -> Tensor:
    """dtype: what X and strict_lower(L X) are rounded to in every iteration."""
    n = lower.shape[-1]
    eye = torch.eye(n, dtype=torch.float32, device=lower.device)
    L = torch.tril(lower.float(), diagonal=-1) + eye
    X = eye.expand_as(L)
    for _ in range(iterations):
        error = torch.tril(L @ X, diagonal=-1)
        X = (X - X @ error.to(dtype).float()).to(dtype).float()
    return X


def solve(
    lower: Tensor,
    method: str = "exact",
    iterations: int = 14,
    dtype: torch.dtype = torch.float32,
    operator: str = "gdn.solve_tril",
) -> Tensor:
    """By either name, in float32; `dtype` is for neumann."""
    check = Check(operator)
    check.one_of("method", method, METHODS)
    shape = f"has shape [{','.join(map(str, lower.shape))}]"
    if lower.ndim < 2:
        check.fail("lower", shape, "[...,n,n] of 2 to 5 axes")
    if lower.shape[-1] != lower.shape[-2]:
        check.fail("lower", shape, "square matrices")
    if method == "exact":
        return solve_exact(lower)
    if iterations < 1:
        check.fail("iterations", f"is {iterations}", "at least 1")
    return solve_neumann(lower, iterations, dtype)


@without_gradient
def solve_tril(
    lower: Tensor,
    *,
    method: str = "exact",
    iterations: int = 14,
    output_residual: bool = False,
    compute: str = "auto",
    force_kernel: str | None = None,
) -> tuple[Tensor, Tensor]:
    """torch.ops.gdn.solve_tril: the inverse in lower's dtype, and max |strict_lower(L X)|, float32
    [...], empty unless asked for."""
    check = Check("gdn.solve_tril")
    check.one_of("method", method, METHODS)
    check.one_of("compute", compute, COMPUTES)
    check.tensor("lower", lower, lower.shape)
    dtype = torch.float32
    if compute == "bfloat16":
        if method != "neumann" or lower.dtype != torch.bfloat16:
            check.fail("compute", 'is "bfloat16"', "it only of neumann with bfloat16 matrices")
        dtype = torch.bfloat16
    inverse = solve(lower, method, iterations, dtype)
    residual = inverse.new_empty(0)
    if output_residual:
        n = lower.shape[-1]
        L = torch.tril(lower.float(), -1) + torch.eye(n, device=lower.device)
        residual = torch.tril(L @ inverse, -1).abs().amax((-2, -1))
    return inverse.to(lower.dtype), residual
