"""Hugging Face's PyTorch functions, those of Qwen3.5. They know neither packs nor pools: a prefill of several sequences
is a call for each, and a decode takes a batch of states and returns new ones."""

import torch
import torch.nn.functional as F
import transformers
from transformers.models.qwen3_5 import modeling_qwen3_5 as model

from .peer import Call

NAME = "Hugging Face"


def version():
    return transformers.__version__


def function(name):
    """Without the wrapper that looks for a kernel on the hub."""
    found = getattr(model, name)
    return getattr(found, "__wrapped__", found)


def prefill(inputs, threads):
    i, chunk = inputs, function("torch_chunk_gated_delta_rule")
    state = i.initial_state("kv")
    found = [None] * i.work.sequences

    def run(turn):
        for n, (begin, end) in enumerate(i.work.ranges):
            q, k, v, g, beta = (x[:, begin:end] for x in (i.q, i.k, i.v, i.g, i.beta))
            found[n] = chunk(
                q, k, v, g, beta, initial_state=state[n : n + 1], output_final_state=True, use_qk_l2norm_in_kernel=True
            )

    note = "a call for each sequence" if i.work.sequences > 1 else ""
    return Call(run, lambda n: (found[n][0][0], found[n][1][0].mT), note)


def decode(inputs, pool, threads):
    i, n, recurrent = inputs, inputs.work.sequences, function("torch_recurrent_gated_delta_rule")
    if i.work.state_dtype != torch.float32:
        return None  # it returns float32 states
    q, k, v, a, b = (x.transpose(0, 1).contiguous() for x in (i.q, i.k, i.v, i.a, i.b))
    states = pool.view("kv")[1:].split(n)
    found = [None]

    def run(turn):
        g = -i.A_log.exp() * F.softplus(a.float() + i.dt_bias)
        found[0] = recurrent(
            q,
            k,
            v,
            g,
            b.sigmoid(),
            initial_state=states[turn % len(states)],
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )

    return Call(run, lambda s: (found[0][0][s], found[0][1][s].mT), "no pool: new states", "kv", indexed=False)
