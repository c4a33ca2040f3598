"""Stages 2 to 4, for all chunks at once: what can be computed without the state.

The tokens of a chunk that starts from the state S0 write v_new, which solves

    (I + A) v_new = diag(beta) (V - diag(exp G) K S0^T),
    A_ij = beta_i exp(G_i - G_j) (k_i . k_j) for i > j, else 0.

With T = (I + A)^-1 that is v_new = u - w S0^T, where u = T diag(beta) V and w = T diag(beta exp G) K.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .preprocess import Chunks
from .solve_tril import solve_exact


class PhaseA(NamedTuple):
    A: Tensor
    """[M,HV,C,C], zero on and above the diagonal"""
    T: Tensor
    """[M,HV,C,C] = (I + A)^-1"""
    u: Tensor
    """[M,HV,C,V]"""
    w: Tensor
    """[M,HV,C,K]"""


def phase_a(x: Chunks, invert: Callable[[Tensor], Tensor] = solve_exact) -> PhaseA:
    """invert: gives (I + A)^-1 of A, float32."""
    beta = x.beta.unsqueeze(-1)
    A = torch.tril(beta * x.decay.between * (x.k @ x.k.mT), diagonal=-1)
    T = invert(A)
    u = T @ (beta * x.v)
    w = T @ (beta * x.decay.from_start.unsqueeze(-1) * x.k)
    return PhaseA(A, T, u, w)
