"""llama.cpp's operator: token by token in float32, without gates and l2norm inside, and out of place."""

import ctypes
import os

import torch

from .native_library import load
from .peer import Call
from .work import H, HV, K, V

NAME = "llama.cpp"

library = load("gdn_llama_cpp")
library.llama_cpp_create.restype = ctypes.c_void_p
library.llama_cpp_create.argtypes = [ctypes.c_int64] * 5 + [ctypes.c_int]
library.llama_cpp_run.argtypes = [ctypes.c_void_p] * 8
library.llama_cpp_destroy.argtypes = [ctypes.c_void_p]

NOTE = "l2norm not timed"


def version():
    return os.environ["GDN_PEERS_LLAMA_CPP"]


class Graph:
    def __init__(self, sequences, tokens, threads):
        self.handle = library.llama_cpp_create(sequences, tokens, HV, HV, K, threads)

    def __call__(self, *tensors):
        status = library.llama_cpp_run(self.handle, *[tensor.data_ptr() for tensor in tensors])
        if status != 0:
            raise RuntimeError(f"ggml_graph_compute returned {status}")

    def __del__(self):
        library.llama_cpp_destroy(self.handle)


def repeated(inputs):
    """q and k of every value head: ggml's head h reads q/k head h mod H, where the others read h / (HV / H)."""
    return [x.repeat_interleave(HV // H, 2) for x in inputs.normalised()]


def result_tensor(sequences, tokens):
    return torch.empty(sequences * HV * (tokens * V + V * K))


def prefill(inputs, threads):
    i = inputs
    if i.work.dtype != torch.float32 or i.work.sequences > 1:
        return None
    q, k = repeated(i)
    state = i.initial_state("vk")
    result, graph = result_tensor(1, i.work.tokens), Graph(1, i.work.tokens, threads)
    out = result[: i.work.tokens * HV * V].view(i.work.tokens, HV, V)
    final = result[i.work.tokens * HV * V :].view(HV, V, K)
    return Call(lambda turn: graph(q, k, i.v, i.g, i.beta, state, result), lambda n: (out, final), NOTE)


def decode(inputs, pool, threads):
    i, n = inputs, inputs.work.sequences
    if i.work.state_dtype != torch.float32:
        return None
    q, k = repeated(i)
    v = i.v.float()
    states = pool.view("vk")[1:].split(n)
    results, graph = [result_tensor(n, 1) for _ in states], Graph(n, 1, threads)

    def run(turn):
        at = turn % len(states)
        graph(q, k, v, i.g, i.beta, states[at], results[at])

    out, final = results[0][: n * HV * V].view(n, HV, V), results[0][n * HV * V :].view(n, HV, V, K)
    return Call(run, lambda s: (out[s], final[s]), NOTE + ", gates neither; no pool: new states", indexed=False)
