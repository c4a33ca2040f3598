"""The staged pipeline for graph compilers: one graph without breaks, no number read from the
device, the same results; and on the meta device, which has no numbers."""

import inputs
import pytest
import torch
from gdn import staged
from torch.fx.experimental.proxy_tensor import make_fx


def packed():
    return inputs.of_kind(1, T=45, N=9, H=1, HV=2, K=16, V=8)


def ints(*values):
    return torch.tensor(values)


def chunk(x, cu):
    return staged.chunk(
        *x.tokens, x.state[:3], state_layout="vk", output_final_state=True,
        chunk_size=16, cu_seqlens=cu, max_length=40,
    )  # fmt: skip


def chunk_(x, cu, slots, has_initial_state):
    pool = x.state.clone()
    out = staged.chunk_(
        *x.tokens, pool, state_layout="vk", chunk_size=16, cu_seqlens=cu, max_length=40,
        initial_state_indices=slots, null_slot=0, has_initial_state=has_initial_state,
    )  # fmt: skip
    return out, pool


def verify(x, cu, slots, num_accepted):
    pool = x.state.clone()
    out = staged.recurrent_(
        *(t[:, :5] for t in x.tokens), pool, state_layout="vk", cu_seqlens=cu, max_length=3,
        initial_state_indices=slots, num_accepted=num_accepted,
    )  # fmt: skip
    return out, pool


def equal_rows(x):
    return staged.chunk(
        *x.tokens, None, state_layout="kv", output_final_state=True, phase_b="optimized",
        use_qk_l2norm=True, chunk_size=16, compute="bfloat16",
    )  # fmt: skip


def convolution(x, cu, slots):
    weight, pool = x.state[0, 0, :, :4], x.state[:, 0, :, :3].clone()
    y = staged.causal_conv1d_(
        x.v[:, :, 0], weight, None, pool, silu=True, cu_seqlens=cu, max_length=40,
        initial_state_indices=slots,
    )  # fmt: skip
    return y, pool


CU, SLOTS = ints(0, 3, 3, 40), ints(4, -1, 2)
CALLS = [
    (chunk, [CU]),
    (chunk_, [CU, SLOTS, torch.tensor([True, True, False])]),
    (verify, [ints(0, 2, 3, 5), torch.arange(9).reshape(3, 3), ints(1, 2, 3)]),
    (equal_rows, []),
    (convolution, [CU, SLOTS]),
]
EACH = pytest.mark.parametrize("call,numbers", CALLS, ids=[c[0].__name__ for c in CALLS])


@EACH
def test_one_graph(call, numbers):
    x = packed()
    got = torch.compile(call, fullgraph=True, backend="aot_eager")(x, *numbers)
    for a, b in zip(got, call(x, *numbers)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_inductor_compiles_it():
    x = inputs.of_kind(1, T=4, H=1, HV=2, K=4, V=4)

    def function(q, k, v, g, beta, states):
        return staged.chunk(
            q, k, v, g, beta, states, state_layout="vk", output_final_state=True, chunk_size=4
        )

    got = torch.compile(function, fullgraph=True)(*x.tokens, x.state)
    for a, b in zip(got, function(*x.tokens, x.state)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@EACH
def test_a_trace_has_tensor_operations_alone(call, numbers):
    x = packed()
    tensors = [*x.tokens, x.state, *numbers]

    def function(q, k, v, g, beta, states, *numbers):
        return call(inputs.DeltaRule(q, k, v, g, beta, states, {}), *numbers)

    graph = make_fx(function, tracing_mode="fake")(*tensors)
    targets = {str(n.target) for n in graph.graph.nodes if n.op == "call_function"}
    assert not [t for t in targets if "_local_scalar" in t or "nonzero" in t or "equal" == t]
    for a, b in zip(graph(*tensors), call(x, *numbers)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_in_a_graph_without_a_bucket_the_bound_is_all_tokens():
    def function(x):
        return staged.recurrent(
            *(t[:, :5] for t in x.tokens), x.state[:2], state_layout="vk",
            cu_seqlens=torch.tensor([0, 2, 5]), output_final_state=True,
        )  # fmt: skip

    x = packed()
    got = torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    for a, b in zip(got, function(x)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("operator", ["chunk", "recurrent"])
@pytest.mark.parametrize("max_length", [None, 10])
def test_meta_device(operator, max_length):
    def meta(*shape, dtype=torch.bfloat16):
        return torch.empty(*shape, dtype=dtype, device="meta")

    q, v, g = meta(1, 20, 2, 16), meta(1, 20, 4, 8), meta(1, 20, 4, dtype=torch.float32)
    pool = meta(9, 4, 8, 16)
    common = {
        "state_layout": "vk",
        "cu_seqlens": meta(4, dtype=torch.int32),
        "initial_state_indices": meta(3, dtype=torch.int64),
        "max_length": max_length,
    }
    out, state = getattr(staged, operator)(q, q, v, g, g, pool, output_final_state=True, **common)
    assert out.shape == v.shape and out.dtype == torch.bfloat16 and out.is_meta
    assert state.shape == (3, 4, 8, 16) and state.dtype == torch.bfloat16
    out = getattr(staged, operator + "_")(q, q, v, g, g, pool, **common)
    assert out.shape == v.shape and out.is_meta


def test_small_operators_on_the_meta_device():
    x = torch.empty(2, 6, 8, device="meta")
    weight = torch.empty(8, 4, device="meta")
    assert staged.l2norm(x).shape == x.shape
    assert staged.rms_norm_gated(x, x, weight[:, 0]).shape == x.shape
    assert staged.gating(x, weight[:, 0], weight[:, 0], x)[1].shape == x.shape
    assert staged.causal_conv1d(x, weight, output_final_state=True)[1].shape == (2, 8, 3)
    lower = torch.empty(3, 20, 20, device="meta")
    assert staged.solve_tril(lower, output_residual=True)[1].shape == (3,)
