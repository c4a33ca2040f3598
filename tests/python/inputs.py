"""Random inputs of the operators, from PyTorch's generator, which conftest.py seeds."""

import dataclasses

import torch


def strided(x):
    """The same values with other strides: a slice of a wider tensor, as of a fused qkv buffer."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), float("nan"), dtype=x.dtype)
    wide[..., 2:-1] = x
    return wide[..., 2:-1]


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
        """(out, final_state in the layout asked for), float64."""
        options = {
            k: v for k, v in self.options.items() if k not in ("chunk_size", "output_final_state")
        }
        initial = self.state if state else None
        out, final = torch.ops.gdn.reference_recurrent(*self.tokens, initial, **options)
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
