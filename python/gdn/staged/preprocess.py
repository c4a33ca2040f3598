"""Stage 1: tokens to chunks. q and k are l2-normalised if asked for and repeated for the value
heads of their group, everything is cut into chunks, and the log-decays become decays.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .decay import Decay, clamp_log_decay, decay_of_gates
from .l2norm import l2norm_f32
from .sequences import EqualChunks, PackedChunks


class Chunks(NamedTuple):
    """All chunks of a call, [M,HV,C,...]; rows of padding are zero, and their decay is 1."""

    q: Tensor
    """[M,HV,C,K]"""
    k: Tensor
    """[M,HV,C,K]"""
    v: Tensor
    """[M,HV,C,V]"""
    beta: Tensor
    """float32 [M,HV,C]"""
    decay: Decay
    """float32 [M,HV,C,C] and [M,HV,C]"""


def repeat_heads(x: Tensor, value_heads: int) -> Tensor:
    """[...,H,K] to [...,HV,K]: value head h reads q/k head h / (HV / H)."""
    repeat = value_heads // x.shape[-2]
    if repeat == 1:
        return x
    return x.unsqueeze(-2).expand(*x.shape[:-1], repeat, x.shape[-1]).flatten(-3, -2)


def preprocess(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor | None,
    table: EqualChunks | PackedChunks,
    use_qk_l2norm: bool = False,
    l2norm_eps: float = 1e-6,
) -> Chunks:
    """q, k: float [B,T,H,K]; v: float [B,T,HV,V]; g, beta: float [B,T,HV], beta absent: ones."""
    HV = v.shape[2]
    if use_qk_l2norm:
        q, k = l2norm_f32(q, l2norm_eps), l2norm_f32(k, l2norm_eps)
    q, k = repeat_heads(q, HV), repeat_heads(k, HV)
    beta = torch.ones_like(g) if beta is None else beta

    def heads_first(x: Tensor) -> Tensor:
        return table.split(x.float()).transpose(1, 2)

    return Chunks(
        heads_first(q),
        heads_first(k),
        heads_first(v),
        heads_first(beta),
        decay_of_gates(heads_first(clamp_log_decay(g))),
    )
