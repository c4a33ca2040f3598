"""flash-linear-attention: Triton kernels, which tune themselves in the first call. It knows no pools: a decode reads
states and writes new ones. Prefill gets normalised q and k. Of the two layouts of states the faster one counts."""

import importlib.metadata

from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

from ..work import V
from .peer import Call

NAME = "FLA"
LAYOUTS = {"vk": True, "kv": False}  # state_v_first


def version():
    return importlib.metadata.version("fla-core")


def result(work, layout):
    return lambda made: (made[0].reshape(-1, work.HV, V), made[1] if layout == "vk" else made[1].mT)


def prefill(inputs):
    i, work = inputs, inputs.work
    # Its kernels know batches of sequences of one length without cu_seqlens.
    lengths = None if work.even else i.cu_seqlens.long()
    q, k = i.normalised()
    q, k, v, g, beta = ((i.by_sequence(x) if work.even else x) for x in (q, k, i.v, i.g, i.beta))

    def call(layout):
        states = i.states(layout)

        def run(c):
            return chunk_gated_delta_rule(
                q[c],
                k[c],
                v[c],
                g[c],
                beta[c],
                initial_state=states[c],
                output_final_state=True,
                state_v_first=LAYOUTS[layout],
                cu_seqlens=lengths,
            )

        return Call(run, result(work, layout), layout)

    return [call(layout) for layout in LAYOUTS]


def decode(inputs):
    i, work = inputs, inputs.work
    if work.group != "decode-fp32":
        return []  # its final states are float32
    q, k, v, a, b = (i.by_sequence(x) for x in (i.q, i.k, i.v, i.a, i.b))

    def call(layout):
        states = i.states(layout)

        def run(c):
            return fused_recurrent_gated_delta_rule(
                q[c],
                k[c],
                v[c],
                g=a[c],
                beta=b[c],
                initial_state=states[c],
                output_final_state=True,
                use_qk_l2norm_in_kernel=True,
                use_gate_in_kernel=True,
                A_log=i.A_log,
                dt_bias=i.dt_bias,
                use_beta_sigmoid_in_kernel=True,
                state_v_first=LAYOUTS[layout],
            )

        return Call(run, result(work, layout), layout)

    return [call(layout) for layout in LAYOUTS]
