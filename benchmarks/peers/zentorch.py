"""AMD's zentorch: its chunk operator with its l2norm before it, its packed decode."""

import importlib.metadata

import torch
import zentorch  # noqa: F401  registers torch.ops.zentorch

from .peer import Call, packed_result
from .work import EPS, HV, SCALE, V

NAME = "zentorch"
CHUNK = 64

ops = torch.ops.zentorch


def version():
    return importlib.metadata.version("zentorch")


def prefill(inputs, threads):
    i = inputs
    state = i.initial_state("vk")
    chunks = [-(-length // CHUNK) for length in i.work.lengths]
    indices = torch.tensor([[n, c] for n, count in enumerate(chunks) for c in range(count)], dtype=torch.int32)
    offsets = torch.tensor([0] + torch.tensor(chunks).cumsum(0).tolist(), dtype=torch.int32)
    found = [None]

    def run(turn):
        q, k = ops.gdn_l2norm_fwd(i.q, EPS), ops.gdn_l2norm_fwd(i.k, EPS)
        found[0] = ops.gdn_chunk_gated_delta_rule_fwd(
            q, k, i.v, i.g, i.beta, SCALE, state, True, CHUNK, i.cu_seqlens, indices, offsets
        )

    return Call(run, packed_result(i.work.ranges, lambda: found[0][0][0], lambda: found[0][1]))


def decode(inputs, pool, threads):
    i, n = inputs, inputs.work.sequences
    mixed = torch.cat([x[0].reshape(n, -1) for x in (i.q, i.k, i.v)], -1)
    a, b = i.a[0], i.b[0]
    state = pool.view("vk")
    turns = i.slots.split(n)
    out = torch.empty(n, 1, HV, V, dtype=i.work.dtype)

    def run(turn):
        ops.gdn_fused_recurrent_gated_delta_rule_packed_decode(
            mixed, a, b, i.A_log, i.dt_bias, SCALE, state, out, turns[turn % len(turns)], True
        )

    return Call(run, lambda s: (out[s], state[i.slots[s]]))
