"""gdn.compat.vllm against the token recurrence in float64."""

import inspect

import inputs
import oracle
import pytest
import torch
from gdn.compat import vllm
from tolerance import assert_close

SCALE = 64**-0.5
DECODE = "scale=None initial_state=None inplace_final_state=True cu_seqlens=None " \
    "ssm_state_indices=None num_accepted_tokens=None use_qk_l2norm_in_kernel=False"  # fmt: skip
PARAMETERS = {
    "fused_recurrent_gated_delta_rule": f"q k v g beta=None {DECODE} null_slot=0",
    "fused_sigmoid_gating_delta_rule_update": "A_log a b dt_bias q k v beta=1.0 threshold=20.0 "
    f"{DECODE} is_kda=False null_slot=0",
    "fused_recurrent_gated_delta_rule_packed_decode": "mixed_qkv a b A_log dt_bias scale initial_state "
    "out ssm_state_indices use_qk_l2norm_in_kernel=False null_slot=0",
    "chunk_gated_delta_rule": "q k v g beta scale=None initial_state=None output_final_state=False "
    "cu_seqlens=None chunk_indices=None chunk_offsets=None use_qk_l2norm_in_kernel=False "
    "core_attn_out=None",
}


def test_all_names_the_functions_alone():
    assert sorted(vllm.__all__) == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_argument_for_argument(name):
    parameters = inspect.signature(getattr(vllm, name)).parameters.values()
    empty = inspect.Parameter.empty
    text = [p.name if p.default is empty else f"{p.name}={p.default}" for p in parameters]
    assert text == PARAMETERS[name].split()


def recurrent(x, pool, **options):
    return vllm.fused_recurrent_gated_delta_rule(*x.tokens, initial_state=pool, **options)


def strided(states):
    """A pool as vLLM has it: a slot is a part of a larger block."""
    memory = torch.full((states.shape[0], states[0].numel() + 24), torch.nan, dtype=states.dtype)
    pool = memory[:, : states[0].numel()].unflatten(1, states.shape[1:])
    pool.copy_(states)
    return pool


@pytest.mark.parametrize("null_slot", [0, None])
def test_indices_of_one_axis_and_the_null_block(route, null_slot):
    x = inputs.of_kind(1, T=4, N=6)
    cu = torch.tensor([0, 1, 2, 3, 4], dtype=torch.int32)
    pool = strided(x.state)
    indices = torch.tensor([3, 0, -1, 5, 0, 0], dtype=torch.int32)  # two more than sequences
    out, same = recurrent(x, pool, cu_seqlens=cu, ssm_state_indices=indices, null_slot=null_slot)
    assert same is pool
    expected, last, _ = oracle.recurrence(*x.tokens, x.state[[3, 0, 0, 5]], SCALE, cu)
    written = {3: 0, 5: 3} if null_slot == 0 else {3: 0, 0: 1, 5: 3}
    for n in [1, 2] if null_slot == 0 else [2]:
        expected[:, n] = 0
    assert_close(out, expected)
    for slot in range(6):
        if slot in written:
            assert_close(pool[slot], last[written[slot]], state=True)
        else:
            assert torch.equal(pool[slot], x.state[slot])


def test_several_tokens_and_one_index_keep_the_last_state(route):
    x = inputs.of_kind(2, T=7, N=4)
    cu, pool = torch.tensor([0, 3, 3, 7]), x.state.clone()
    out, _ = recurrent(x, pool, cu_seqlens=cu, ssm_state_indices=torch.tensor([2, 3, 1]))
    expected, last, _ = oracle.recurrence(*x.tokens, x.state[[2, 3, 1]], SCALE, cu)
    assert_close(out, expected)
    assert_close(pool[[2, 3, 1]], last, state=True)


@pytest.mark.parametrize("accepted", [None, [2, 3, 1]])
def test_indices_of_two_axes_keep_a_state_a_token(route, accepted):
    x = inputs.of_kind(3, T=8, N=12)
    cu, pool = torch.tensor([0, 3, 5, 8, 8]), strided(x.state)
    indices = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 0, 9], [0, 0, 0]])
    given = None if accepted is None else torch.tensor([*accepted, 1])
    out, _ = recurrent(x, pool, cu_seqlens=cu, ssm_state_indices=indices, num_accepted_tokens=given)
    read = [2, 6, 7, 0] if accepted else [1, 4, 7, 0]
    expected, _, after = oracle.recurrence(*x.tokens, x.state[read], SCALE, cu)
    assert_close(out, expected)
    written = {indices[n, t].item(): after[n][t] for n in range(3) for t in range(len(after[n]))}
    for slot in range(12):
        if slot and slot in written:
            assert_close(pool[slot], written[slot], state=True)
        else:
            assert torch.equal(pool[slot], x.state[slot]), slot


@pytest.mark.parametrize("indices", [None, [4, 0, 2], [[4, 1], [0, 1], [1, 2]]])
def test_out_of_place_returns_a_state_a_token(route, indices):
    x = inputs.of_kind(4, T=9, N=3 if indices is None else 6)
    cu, before = torch.tensor([0, 4, 6, 8]), x.state.clone()
    options = {}
    if indices is not None:
        options["ssm_state_indices"] = torch.tensor(indices)
        if isinstance(indices[0], list):
            options["num_accepted_tokens"] = torch.tensor([1, 1, 2])
    out, states = recurrent(x, x.state, inplace_final_state=False, cu_seqlens=cu, **options)
    read = [0, 1, 2] if indices is None else [4, 0, 2]
    expected, _, after = oracle.recurrence(*x.tokens, before[read], SCALE, cu)
    if indices is not None:
        expected[:, 4:6], after[1] = 0, torch.zeros_like(after[1])
    assert_close(out, expected)
    assert states.shape == (9, 4, 64, 64)
    assert_close(states[:8], torch.cat(after), state=True)
    assert (states[8] == 0).all() and torch.equal(x.state, before)


def test_out_of_place_of_rows_without_a_state(route):
    x = inputs.of_kind(5, B=2, T=2)
    out, states = vllm.fused_recurrent_gated_delta_rule(
        x.q, x.k, x.v, x.g, x.beta, inplace_final_state=False
    )
    expected, _, after = oracle.recurrence(*x.tokens, torch.zeros(2, 4, 64, 64), SCALE)
    assert_close(out, expected)
    assert states.dtype == torch.float32
    assert_close(states, torch.cat(after), state=True)


def test_rows_without_indices_in_place(route):
    x = inputs.of_kind(6, B=3, T=1, dtype=torch.bfloat16, state_dtype=torch.bfloat16)
    before = x.state.clone()
    out, _ = recurrent(x, x.state, use_qk_l2norm_in_kernel=True)
    expected, last, _ = oracle.recurrence(*x.tokens, before, SCALE, use_qk_l2norm=True)
    assert_close(out, expected)
    assert_close(x.state, last, state=True)


def parameters(seed, tokens, dtype=torch.float32):
    r = torch.Generator().manual_seed(seed)
    A_log, dt_bias = torch.randn(4, generator=r) * 0.3, torch.randn(4, generator=r)
    a, b = (torch.randn(tokens, 4, generator=r).to(dtype) for _ in range(2))
    return A_log, a, b, dt_bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sigmoid_gating_update(route, dtype):
    x = inputs.of_kind(7, T=5, N=4, dtype=dtype)
    A_log, a, b, dt_bias = parameters(1, 5, dtype)
    cu, pool = torch.tensor([0, 2, 5]), strided(x.state)
    out, same = vllm.fused_sigmoid_gating_delta_rule_update(
        A_log, a, b, dt_bias, x.q, x.k, x.v, 0.7, 3.0, initial_state=pool, cu_seqlens=cu,
        ssm_state_indices=torch.tensor([3, 1]), use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    g, beta = oracle.gates(A_log, a[None], dt_bias, b[None], 0.7, 3.0)
    expected, last, _ = oracle.recurrence(
        x.q, x.k, x.v, g, beta, x.state[[3, 1]], SCALE, cu, use_qk_l2norm=True
    )
    assert same is pool and out.dtype == dtype
    assert_close(out, expected)
    assert_close(pool[[3, 1]], last, state=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_decode(route, dtype):
    x = inputs.of_kind(8, B=4, T=1, N=6, K=32, V=16, dtype=dtype)
    A_log, a, b, dt_bias = parameters(2, 4, dtype)
    mixed = torch.cat([t.reshape(4, -1) for t in (x.q, x.k, x.v)], dim=1)
    pool, out = strided(x.state), torch.full_like(x.v, torch.nan)
    indices = torch.tensor([5, 0, 2, -1])
    result = vllm.fused_recurrent_gated_delta_rule_packed_decode(
        mixed, a, b, A_log, dt_bias, 0.3, pool, out, indices, use_qk_l2norm_in_kernel=True
    )
    assert result[0] is out and result[1] is pool
    g, beta = oracle.gates(A_log, a[:, None], dt_bias, b[:, None])
    expected, last, _ = oracle.recurrence(
        x.q, x.k, x.v, g, beta, x.state[[5, 0, 2, 0]], 0.3, use_qk_l2norm=True
    )
    expected[[1, 3]] = 0
    assert_close(out, expected)
    assert_close(pool[[5, 2]], last[[0, 2]], state=True)
    assert torch.equal(pool[[0, 1, 3, 4]], x.state[[0, 1, 3, 4]])


@pytest.mark.parametrize("given", [True, False])
def test_chunk(route, given):
    x = inputs.of_kind(9, T=143, N=3, dtype=torch.bfloat16, state_dtype=torch.bfloat16)
    cu = torch.tensor([0, 70, 70, 140], dtype=torch.int32)
    buffer = torch.full((2 * x.v.numel(),), torch.nan, dtype=torch.bfloat16) if given else None
    out, state = vllm.chunk_gated_delta_rule(
        *x.tokens, initial_state=x.state if given else None, output_final_state=True, cu_seqlens=cu,
        chunk_indices=torch.zeros(9, 2), chunk_offsets=torch.zeros(4), core_attn_out=buffer,
    )  # fmt: skip
    states = x.state if given else torch.zeros(3, 4, 64, 64)
    expected, last, _ = oracle.recurrence(*x.tokens, states, SCALE, cu)
    assert state.dtype == torch.float32
    assert_close(out, expected, compute="bfloat16")
    assert_close(state, last, compute="bfloat16", state=True)
    if given:
        assert out.data_ptr() == buffer.data_ptr() and buffer[x.v.numel() :].isnan().all()
    assert vllm.chunk_gated_delta_rule(*x.tokens)[1] is None


@pytest.mark.parametrize("in_place", [True, False])
def test_verification_is_one_graph(route, in_place):
    def call(A_log, a, b, dt_bias, q, k, v, pool, cu, indices, accepted):
        pool = pool.clone()
        return vllm.fused_sigmoid_gating_delta_rule_update(
            A_log, a, b, dt_bias, q, k, v, initial_state=pool, inplace_final_state=in_place,
            cu_seqlens=cu, ssm_state_indices=indices, num_accepted_tokens=accepted,
        )  # fmt: skip

    x = inputs.of_kind(11, T=4, N=7, K=16, V=8)
    arguments = (
        *parameters(3, 4), x.q, x.k, x.v, x.state, torch.tensor([0, 2, 4]),
        torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]),
    )  # fmt: skip
    got = torch.compile(call, fullgraph=True, backend="aot_eager")(*arguments)
    for a, b in zip(got, call(*arguments)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


CHUNK = vllm.chunk_gated_delta_rule
RECURRENT = vllm.fused_recurrent_gated_delta_rule


POOL, TWO = torch.zeros(2, 4, 8, 8), torch.tensor([[0, 1], [1, 0]])


@pytest.mark.parametrize(
    "function,options,error,text",
    [
        (CHUNK, {"cu_seqlens": torch.tensor([0, 4])}, ValueError, "expected to be 1 rather than 2 when using"),
        (CHUNK, {"initial_state": torch.zeros(3, 4, 8, 8)}, ValueError, "i.e., 2 rather than 3"),
        (CHUNK, {"scale": -1.0}, ValueError, "scale must be positive"),
        (CHUNK, {"core_attn_out": torch.zeros(3)}, ValueError, "core_attn_out too small"),
        (CHUNK, {"beta": torch.zeros(2, 4, 4, 8)}, NotImplementedError, "beta has a value a channel"),
        (RECURRENT, {"cu_seqlens": torch.tensor([0, 4])}, ValueError, "expected to be 1 rather than 2"),
        (RECURRENT, {"scale": 0.0}, ValueError, "scale must be positive"),
        (RECURRENT, {}, ValueError, "initial_state is absent"),
        (RECURRENT, {"initial_state": torch.zeros(2, 4, 8, 8), "num_accepted_tokens": torch.ones(2)},
         ValueError, "num_accepted_tokens is given"),
        (RECURRENT, {"initial_state": torch.zeros(2, 4, 8, 8), "ssm_state_indices": torch.tensor([1, 7])},
         IndexError, "initial_state_indices[1] is 7"),
        (RECURRENT, {"initial_state": POOL, "ssm_state_indices": torch.tensor([1, 7]),
                     "inplace_final_state": False}, IndexError, "initial_state_indices[1] is 7"),
        (RECURRENT, {"initial_state": POOL, "ssm_state_indices": TWO, "inplace_final_state": False,
                     "num_accepted_tokens": torch.tensor([1, 3])}, IndexError, "num_accepted[1] is 3"),
        (RECURRENT, {"initial_state": POOL[:1], "inplace_final_state": False}, ValueError,
         "initial_state has 1 slots for 2 sequences"),
        (RECURRENT, {"initial_state": torch.zeros(2, 4, 8, 8), "beta": torch.zeros(2, 4, 4, 8)},
         NotImplementedError, "beta has a value a channel"),
    ],
)  # fmt: skip
def test_errors(route, function, options, error, text):
    x = inputs.of_kind(0, B=2, T=4, K=8, V=8)
    with pytest.raises(error) as caught:
        function(**dict(zip("q k v g beta".split(), x.tokens)) | options)
    assert text in str(caught.value)


def test_a_decay_a_channel_is_refused_by_name():
    x = inputs.of_kind(0, T=2)
    with pytest.raises(NotImplementedError, match="is_kda"):
        vllm.fused_sigmoid_gating_delta_rule_update(
            *parameters(0, 2), x.q, x.k, x.v, initial_state=x.state, is_kda=True
        )


@pytest.mark.parametrize(
    "change,text",
    [
        ({"mixed_qkv": torch.zeros(2, 1, 96)}, "`mixed_qkv` has 3 axes, expected 2"),
        ({"a": torch.zeros(8)}, "`a` has 1 axes, expected 2"),
        ({"ssm_state_indices": torch.zeros(2, 1).long()}, "`ssm_state_indices` has 2 axes"),
        ({"out": torch.zeros(2, 4, 8)}, "`out` has shape [2, 4, 8], expected [2, 1, 4, 8]"),
        ({"mixed_qkv": torch.zeros(2, 60)}, "Invalid packed `mixed_qkv` last dim=60"),
    ],
)
def test_errors_of_packed_decode(change, text):
    arguments = {
        "mixed_qkv": torch.zeros(2, 2 * 2 * 8 + 32), "a": torch.zeros(2, 4), "b": torch.zeros(2, 4),
        "A_log": torch.zeros(4), "dt_bias": torch.zeros(4), "scale": 1.0,
        "initial_state": torch.zeros(3, 4, 8, 8), "out": torch.zeros(2, 1, 4, 8),
        "ssm_state_indices": torch.tensor([1, 2]),
    }  # fmt: skip
    vllm.fused_recurrent_gated_delta_rule_packed_decode(**arguments)
    with pytest.raises(ValueError) as caught:
        vllm.fused_recurrent_gated_delta_rule_packed_decode(**arguments | change)
    assert text in str(caught.value)
