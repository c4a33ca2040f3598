"""Inputs of the delta rule from a seed."""

from dataclasses import dataclass, field

import torch

HARD = (
    "identical_keys",
    "common_direction",
    "g_-100_once",
    "g_-100",
    "g_-inf_once",
    "g_0",
    "beta_0",
    "beta_1",
    "zeros",
    "values_1e4",
)


@dataclass
class Inputs:
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor
    beta: torch.Tensor
    states: torch.Tensor = field(default=None)
    """[N,HV,V,K]"""

    def five(self):
        return self.q, self.k, self.v, self.g, self.beta


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def inputs(
    seed=0, B=1, T=130, H=2, HV=4, K=64, V=64, N=None, dtype=torch.float32, kind="usual",
    state_dtype=torch.float32,
):  # fmt: skip
    r = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=r)

    q, k, v = unit(normal(B, T, H, K)), unit(normal(B, T, H, K)), normal(B, T, HV, V)
    g = -torch.rand(B, T, HV, generator=r) * 0.3
    beta = torch.rand(B, T, HV, generator=r)
    if kind == "identical_keys":
        k = unit(normal(1, 1, 1, K)).expand(B, T, H, K).clone()
        g, beta = torch.full_like(g, -1e-3), torch.full_like(beta, 0.99)
    elif kind == "common_direction":
        k = unit(0.1**0.5 * k + 0.9**0.5 * unit(normal(1, 1, 1, K)))
        g, beta = torch.full_like(g, -1e-3), torch.full_like(beta, 0.99)
    elif kind == "g_-100_once":
        g[:, T // 3] = -100
    elif kind == "g_-100":
        g[:] = -100
    elif kind == "g_-inf_once":
        g[:, T // 3] = -torch.inf
    elif kind == "g_0":
        g[:] = 0
    elif kind == "beta_0":
        beta[:] = 0
    elif kind == "beta_1":
        beta[:] = 1
    elif kind == "zeros":
        for x in (q, k, v):
            x[:, 64:128] = 0
    elif kind == "values_1e4":
        v = v * 1e4
    elif kind != "usual":
        raise ValueError(kind)
    N = B if N is None else N
    states = (normal(N, HV, V, K) * 0.3).to(state_dtype)
    return Inputs(q.to(dtype), k.to(dtype), v.to(dtype), g, beta.to(dtype), states)
