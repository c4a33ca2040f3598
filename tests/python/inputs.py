"""Random inputs of the operators, from PyTorch's generator, which conftest.py seeds."""

import dataclasses

import torch


def strided(x):
    """The same values with other strides: a slice of a wider tensor, as of a fused qkv buffer."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), float("nan"), dtype=x.dtype, device=x.device)
    wide[..., 2:-1] = x
    return wide[..., 2:-1]


def _on_cpu(x):
    return x.cpu() if isinstance(x, torch.Tensor) else x


@dataclasses.dataclass
class DeltaRule:
    """Arguments of a delta-rule call, in the order of the operators; `options` are the keywords."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor
    beta: torch.Tensor
    state: torch.Tensor  # [N,HV,V,K] or, with "kv", [N,HV,K,V]
    options: dict

    @property
    def tokens(self):
        return self.q, self.k, self.v, self.g, self.beta

    @property
    def sequences(self):
        return self.state.shape[0]

    def reference(self, state=True):
        """(out, final_state in the layout asked for), float64. It is computed on the CPU."""
        options = {
            k: _on_cpu(v)
            for k, v in self.options.items()
            if k not in ("chunk_size", "context_split", "output_final_state")
        }
        arguments = map(_on_cpu, (*self.tokens, self.state if state else None))
        out, final = torch.ops.gdn.reference_recurrent(*arguments, **options)
        out, final = out.to(self.q.device), final.to(self.q.device)
        return out, final.transpose(2, 3) if options["state_layout"] == "kv" else final


def delta_rule(
    B=2,
    T=70,
    H=2,
    HV=4,
    K=32,
    V=48,
    dtype=torch.float32,
    state_dtype=torch.float32,
    layout="vk",
    lengths=None,
    index_dtype=torch.int32,
    make=lambda x: x,
):
    """With `lengths`, sequences packed into B = 1. `make` gives q, k, v and the gates their
    strides."""
    options = dict(state_layout=layout, use_qk_l2norm=True)
    N = B
    if lengths is not None:
        B, T, N = 1, sum(lengths), len(lengths)
        options["cu_seqlens"] = torch.tensor(
            [0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=index_dtype
        )
    shape = (N, HV, V, K) if layout == "vk" else (N, HV, K, V)
    return DeltaRule(
        q=make(torch.randn(B, T, H, K).to(dtype)),
        k=make(torch.randn(B, T, H, K).to(dtype)),
        v=make(torch.randn(B, T, HV, V).to(dtype)),
        g=make(-torch.rand(B, T, HV) * 0.5),
        beta=make(torch.rand(B, T, HV)),
        state=torch.randn(shape).to(state_dtype),
        options=options,
    )


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


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def of_kind(
    seed=0, B=1, T=130, H=2, HV=4, K=64, V=64, N=None, dtype=torch.float32, kind="usual",
    state_dtype=torch.float32,
):  # fmt: skip
    """Keys and queries of norm 1, and what is hard about them: `kind`, of HARD or "usual". Of a seed of
    its own, so that a bound holds or fails for one set of numbers."""
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
    q, k, v, beta = (x.to(dtype) for x in (q, k, v, beta))
    return DeltaRule(q, k, v, g, beta, states, {"state_layout": "vk"})
