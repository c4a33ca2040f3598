"""FlashInfer: its prefill takes packed sequences, decays instead of their logarithms, and normalised q and k, or
normalises them in a kernel before its own, which is a peer by itself. With or without context parallelism: the faster
counts."""

import importlib.metadata

import torch
from flashinfer.gdn_decode import gated_delta_rule_decode_pretranspose
from flashinfer.gdn_prefill import chunk_gated_delta_rule

from ..work import SCALE
from .peer import Call


class FlashInfer:
    def __init__(self, name, normalises):
        self.NAME, self.normalises = name, normalises

    def version(self):
        return importlib.metadata.version("flashinfer-python")

    def prefill(self, inputs):
        i = inputs
        q, k = (i.q, i.k) if self.normalises else i.normalised()
        q, k, v, beta = ([x[0] for x in of] for of in (q, k, i.v, i.beta))
        decay = [g[0].exp() for g in i.g]
        lengths, longest = i.cu_seqlens.long(), max(i.work.lengths)
        before, after = i.states(), i.states()

        def call(split):
            def run(c):
                return chunk_gated_delta_rule(
                    q[c],
                    k[c],
                    v[c],
                    decay[c],
                    beta[c],
                    SCALE,
                    before[c],
                    output_final_state=True,
                    cu_seqlens=lengths,
                    use_qk_l2norm_in_kernel=self.normalises,
                    output_state=after[c],
                    use_cp=split,
                    max_seqlen=longest,
                )

            return Call(run, lambda made: made, f"use_cp={split}")

        return [call(split) for split in (True, False)]

    def decode(self, inputs):
        if self.normalises:
            return []  # the other one's does
        i, n = inputs, inputs.work.sequences
        q, k, v, a, b = (i.by_sequence(x) for x in (i.q, i.k, i.v, i.a, i.b))
        pools = i.pools()
        outs = [torch.empty_like(x) for x in v]

        def run(c):
            return gated_delta_rule_decode_pretranspose(
                q[c],
                k[c],
                v[c],
                None,
                i.A_log,
                a[c],
                i.dt_bias,
                b[c],
                SCALE,
                outs[c],
                True,
                initial_state=pools[c],
                initial_state_indices=i.slots,
            )

        return [Call(run, lambda made: (made[0].view(n, *v[0].shape[2:]), pools[0][i.slots.long()]))]


def peers():
    return [FlashInfer("FlashInfer", False), FlashInfer("FlashInfer, its l2norm", True)]
