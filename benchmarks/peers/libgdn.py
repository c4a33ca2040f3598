"""libgdn, through torch.ops of its Python package."""

import torch

import gdn

from .peer import Call, packed_result

NAME = "libgdn"


def version():
    return gdn.__version__


def prefill(inputs, threads):
    i = inputs
    state = i.initial_state("vk")
    lengths = i.cu_seqlens if i.work.sequences > 1 else None
    out = [None]

    def run(turn):
        out[0] = torch.ops.gdn.chunk_(
            i.q, i.k, i.v, i.g, i.beta, state, state_layout="vk", cu_seqlens=lengths, use_qk_l2norm=True
        )

    return Call(run, packed_result(i.work.ranges, lambda: out[0][0], lambda: state))


def decode(inputs, pool, threads):
    i, n = inputs, inputs.work.sequences
    q, k, v, a, b = (x.transpose(0, 1).contiguous() for x in (i.q, i.k, i.v, i.a, i.b))
    state = pool.view("vk")
    turns = i.slots.split(n)
    call, out = torch.ops.gdn.recurrent_, [None]
    options = dict(state_layout="vk", A_log=i.A_log, a=a, dt_bias=i.dt_bias, b=b, use_qk_l2norm=True)

    def run(turn):
        out[0] = call(q, k, v, None, None, state, initial_state_indices=turns[turn % len(turns)], **options)

    return Call(run, lambda s: (out[0][s], state[i.slots[s]]))
