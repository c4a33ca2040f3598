"""libgdn, through torch.ops of its Python package."""

import torch

import gdn

from ..work import V
from .peer import Call

NAME = "libgdn"


def version():
    return gdn.__version__


def prefill(inputs):
    i, work = inputs, inputs.work
    lengths = None if work.even else i.cu_seqlens
    q, k, v, g, beta = ((i.by_sequence(x) if work.even else x) for x in (i.q, i.k, i.v, i.g, i.beta))
    states = i.states()

    def run(c):
        return torch.ops.gdn.chunk_(
            q[c], k[c], v[c], g[c], beta[c], states[c], state_layout="vk", cu_seqlens=lengths, use_qk_l2norm=True
        )

    return [Call(run, lambda out: (out.reshape(-1, work.HV, V), states[0]))]


def decode(inputs):
    i = inputs
    q, k, v, a, b = (i.by_sequence(x) for x in (i.q, i.k, i.v, i.a, i.b))
    pools = i.pools()
    options = dict(state_layout="vk", A_log=i.A_log, dt_bias=i.dt_bias, use_qk_l2norm=True)

    def run(c):
        return torch.ops.gdn.recurrent_(
            q[c], k[c], v[c], None, None, pools[c], a=a[c], b=b[c], initial_state_indices=i.slots, **options
        )

    return [Call(run, lambda out: (out[:, 0], pools[0][i.slots.long()]))]
