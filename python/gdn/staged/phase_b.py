"""Stages 5 and 6: the walk over the chunks, which waits for the state. Two forms of the same sums.

legacy       v_new = u - w S0^T
             out   = scale (diag(exp G) Q S0^T + P v_new),   P_ij = exp(G_i - G_j) (q_i . k_j), i >= j
             S     = exp(G_C) S0 + (diag(exp(G_C - G)) v_new)^T K

optimized    the same with v_new put in, and all that does not need the state computed before the
             walk, in which a chunk then takes two products:
             out   = core + carry S0^T,     core = scale P u,  carry = scale (diag(exp G) Q - P w)
             S^T   = M S0^T + N,            M = exp(G_C) I - K^T diag(exp(G_C - G)) w
                                            N = K^T diag(exp(G_C - G)) u

The state is float32 throughout.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .decay import Decay
from .phase_a import PhaseA
from .preprocess import Chunks
from .products import matmul
from .sequences import EqualChunks, PackedChunks

Table = EqualChunks | PackedChunks


class Walked(NamedTuple):
    out: Tensor
    """[N,steps,HV,C,V]"""
    state: Tensor
    """[N,HV,V,K]: the last"""
    v_new: Tensor | None
    """[N,steps,HV,C,V], of the legacy form"""


def attention(q: Tensor, k: Tensor, decay: Decay, dtype: torch.dtype) -> Tensor:
    """P: [...,C,C]."""
    return torch.tril(matmul(q, k.mT, dtype) * decay.between)


def chunk_step(
    u: Tensor,
    w: Tensor,
    q: Tensor,
    k: Tensor,
    decay: Decay,
    state: Tensor,
    scale: float,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """One chunk of every sequence in the legacy form: out and v_new [N,HV,C,V], the new state."""
    v_new = u - matmul(w, state.mT, dtype)
    carried = decay.from_start.unsqueeze(-1) * matmul(q, state.mT, dtype)
    out = scale * (carried + attention(q, k, decay, dtype) @ v_new)
    left = decay.to_end.unsqueeze(-1) * v_new
    state = decay.whole[..., None, None] * state + left.mT @ k
    return out, v_new, state


def phase_b_legacy(
    x: Chunks,
    a: PhaseA,
    state: Tensor,
    table: Table,
    scale: float,
    dtype: torch.dtype = torch.float32,
) -> Walked:
    """state: float32 [N,HV,V,K], the initial one."""
    outs, v_news = [], []
    for step in range(table.steps):
        u, w, q, k = (table.at(t, step) for t in (a.u, a.w, x.q, x.k))
        decay = Decay(*(table.at(t, step) for t in x.decay))
        out, v_new, after = chunk_step(u, w, q, k, decay, state, scale, dtype)
        state = table.keep_ended(step, state, after)
        outs.append(out)
        v_news.append(v_new)
    return Walked(_stack(outs, x.v, state), state, _stack(v_news, x.v, state))


class Hoisted(NamedTuple):
    """What the optimized form computes before it walks."""

    attention: Tensor
    """[M,HV,C,C]"""
    core: Tensor
    """[M,HV,C,V]"""
    carry: Tensor
    """[M,HV,C,K]"""
    M: Tensor
    """[M,HV,K,K]"""
    N: Tensor
    """[M,HV,K,V]"""


def hoist(x: Chunks, a: PhaseA, scale: float, dtype: torch.dtype = torch.float32) -> Hoisted:
    P = attention(x.q, x.k, x.decay, dtype)
    core = scale * (P @ a.u)
    carry = scale * (x.decay.from_start.unsqueeze(-1) * x.q - P @ a.w)
    left = (x.decay.to_end.unsqueeze(-1) * x.k).mT
    eye = torch.eye(x.k.shape[-1], dtype=torch.float32, device=x.k.device)
    M = x.decay.whole[..., None, None] * eye - left @ a.w
    return Hoisted(P, core, carry, M, left @ a.u)


def phase_b_optimized(
    x: Chunks,
    a: PhaseA,
    state: Tensor,
    table: Table,
    scale: float,
    dtype: torch.dtype = torch.float32,
) -> Walked:
    """state: float32 [N,HV,V,K], the initial one."""
    h = hoist(x, a, scale, dtype)
    state = state.mT
    outs = []
    for step in range(table.steps):
        outs.append(table.at(h.core, step) + matmul(table.at(h.carry, step), state, dtype))
        after = table.at(h.M, step) @ state + table.at(h.N, step)
        state = table.keep_ended(step, state, after)
    state = state.mT
    return Walked(_stack(outs, x.v, state), state, None)


def _stack(chunks: list[Tensor], v: Tensor, state: Tensor) -> Tensor:
    if chunks:
        return torch.stack(chunks, dim=1)
    return v.new_zeros(state.shape[0], 0, *v.shape[1:])
