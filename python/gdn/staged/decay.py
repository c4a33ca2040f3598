"""How much of what token j did is left at token i of its chunk: exp(G_i - G_j), with G the sum of
the log-decays g from the chunk's start.

Three traps decide between right and wrong here. exp(G_i) * exp(-G_j) overflows where the
exponential of the difference does not. Above the diagonal the difference is positive and overflows
too, so it is masked before the exponential. And G forgets: in float32, after one large |g| the
later differences have lost their digits. So a difference is summed for itself, from its own terms,
which are of one sign: no digit is lost, and no float64 is needed.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MIN_LOG_DECAY = -150.0
"""g below this is replaced by it: exp(-150) is 0 in float32, and -inf - -inf is no number."""


class Decay(NamedTuple):
    between: Tensor
    """[...,C,C]: exp(G_i - G_j) for i >= j, else 0."""
    from_start: Tensor
    """[...,C]: exp(G_i)."""
    to_end: Tensor
    """[...,C]: exp(G_C - G_i)."""
    whole: Tensor
    """[...]: exp(G_C)."""


def clamp_log_decay(g: Tensor) -> Tensor:
    """g in float32, not below MIN_LOG_DECAY. NaN stays NaN."""
    return g.float().clamp(min=MIN_LOG_DECAY)


def _below(n: int, diagonal: int, device: torch.device) -> Tensor:
    i = torch.arange(n, device=device)
    return i[:, None] >= i[None, :] - diagonal


def decay_of_gates(g: Tensor) -> Decay:
    """From log-decays g [...,C], as `clamp_log_decay` gives them; 0 in padding."""
    C = g.shape[-1]
    # Row j: the sum over j < m <= i of g_m, for every i.
    terms = torch.where(_below(C, -1, g.device).mT, g.unsqueeze(-2), 0)
    between = torch.cumsum(terms, dim=-1).mT
    from_start = torch.cumsum(g, dim=-1).exp()
    return _finish(between, from_start)


def decay_of_sums(G: Tensor) -> Decay:
    """From sums G [...,C] that someone else made; padding repeats the last. What digits the sums
    have lost stays lost."""
    return _finish(G.unsqueeze(-1) - G.unsqueeze(-2), G.exp())


def _finish(differences: Tensor, from_start: Tensor) -> Decay:
    lower = _below(from_start.shape[-1], 0, from_start.device)
    between = torch.where(lower, differences, -torch.inf).exp()
    return Decay(between, from_start, between[..., -1, :], from_start[..., -1])
