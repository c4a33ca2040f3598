"""torch.ops.gdn.chunk, recurrent and their in-place forms, against the reference in double."""

import inputs
import pytest
import torch
from tolerance import assert_close

import gdn

OPERATORS = ["chunk", "recurrent"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def may_use_bf16(operator, dtype):
    return operator == "chunk" and dtype == torch.bfloat16


def check(operator, call, results, **reference):
    out, final_state = call.reference(**reference)
    how = dict(compute="bfloat16" if may_use_bf16(operator, call.q.dtype) else "float32")
    assert_close(results[0], out, "out", **how)
    assert_close(results[1], final_state, "final_state", state=True, **how)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", ["vk", "kv"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [None, [1, 63, 0, 64, 65, 30]], ids=["batch", "packed"])
def test_matches_the_reference(operator, layout, dtype, lengths):
    call = inputs.delta_rule(dtype=dtype, layout=layout, lengths=lengths)
    run = getattr(torch.ops.gdn, operator)
    results = run(*call.tokens, call.state, output_final_state=True, **call.options)
    check(operator, call, results)
    assert results[0].dtype == dtype and results[1].dtype == torch.float32


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kernel", gdn.kernels())
def test_runs_every_kernel_by_name(operator, kernel):
    call = inputs.delta_rule()
    run = getattr(torch.ops.gdn, operator)
    check(
        operator,
        call,
        run(*call.tokens, call.state, output_final_state=True, force_kernel=kernel, **call.options),
    )


@pytest.mark.parametrize("operator", OPERATORS)
def test_takes_any_strides_of_tokens_and_heads(operator):
    torch.manual_seed(seed := torch.initial_seed())
    plain = inputs.delta_rule()
    torch.manual_seed(seed)
    call = inputs.delta_rule(make=inputs.strided)
    assert not call.q.is_contiguous()
    run = getattr(torch.ops.gdn, operator)
    wanted = run(*plain.tokens, plain.state, output_final_state=True, **plain.options)
    got = run(*call.tokens, call.state, output_final_state=True, **call.options)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted))


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_state_not_asked_for_is_empty(operator):
    call = inputs.delta_rule()
    out, state = getattr(torch.ops.gdn, operator)(*call.tokens, **call.options)
    assert state.shape == (0,)
    assert_close(out, call.reference(state=False)[0], "out")


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("state_dtype", DTYPES, ids=str)
def test_the_final_state_has_the_dtype_of_the_initial_one(operator, state_dtype):
    call = inputs.delta_rule(state_dtype=state_dtype)
    results = getattr(torch.ops.gdn, operator)(
        *call.tokens, call.state, output_final_state=True, **call.options
    )
    assert results[1].dtype == state_dtype
    check(operator, call, results)


@pytest.mark.parametrize("operator", OPERATORS)
def test_computes_gates_inside(operator):
    call = inputs.delta_rule()
    a, b = torch.randn_like(call.g), torch.randn_like(call.g)
    A_log, dt_bias = torch.randn(4), torch.randn(4)
    call.g = call.beta = None
    call.options.update(A_log=A_log, a=a, dt_bias=dt_bias, b=b, allow_neg_eigval=True)
    results = getattr(torch.ops.gdn, operator)(
        *call.tokens, call.state, output_final_state=True, **call.options
    )
    check(operator, call, results)
    # And as PyTorch computes them.
    call.g = -A_log.exp() * torch.nn.functional.softplus(a + dt_bias)
    call.beta = 2 * b.sigmoid()
    for name in ("A_log", "a", "dt_bias", "b", "allow_neg_eigval"):
        del call.options[name]
    check(operator, call, results)


@pytest.mark.parametrize("operator", OPERATORS)
def test_functional_reads_slots_and_zeroes_padding(operator):
    call = inputs.delta_rule(B=3)
    pool = torch.full((7, *call.state.shape[1:]), float("nan"))
    pool[5], pool[2] = call.state[0], call.state[2]
    out, final = getattr(torch.ops.gdn, operator)(
        *call.tokens,
        pool,
        output_final_state=True,
        initial_state_indices=torch.tensor([5, 0, 2]),
        null_slot=0,
        **call.options,
    )
    wanted_out, wanted_final = call.reference()
    for n in (0, 2):
        assert_close(out[n], wanted_out[n], "out")
        assert_close(final[n], wanted_final[n], "final_state")
    assert out[1].count_nonzero() == 0 and final[1].count_nonzero() == 0


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", ["vk", "kv"])
def test_in_place_updates_named_slots_alone(operator, layout):
    call = inputs.delta_rule(lengths=[3, 70, 0, 5], layout=layout)
    # A pool with a stride between its slots.
    wide = torch.full((9, 2, *call.state.shape[1:]), float("nan"))
    pool = wide[:, 1]
    read, written = torch.tensor([4, 8, 1, -1]), torch.tensor([4, 0, 2, 6])
    pool[4], pool[8], pool[1] = call.state[0], call.state[1], call.state[2]
    before = wide.clone()
    out = getattr(torch.ops.gdn, operator + "_")(
        *call.tokens,
        pool,
        initial_state_indices=read,
        final_state_indices=written,
        has_initial_state=torch.tensor([True, False, True, True]),
        **call.options,
    )
    call.state[1] = 0  # has no initial state
    wanted_out, wanted_final = call.reference()
    wanted_out[:, 73:] = 0  # the last sequence is padding
    assert_close(out, wanted_out, "out")
    for n, slot in enumerate(written[:3]):
        assert_close(pool[slot], wanted_final[n], f"slot {slot}")
    unnamed = torch.ones(9, dtype=torch.bool)
    unnamed[written[:3]] = False
    assert torch.equal(wide[unnamed].nan_to_num(), before[unnamed].nan_to_num())
    assert wide[:, 0].isnan().all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_in_place_writes_where_it_reads_unless_told_otherwise(operator):
    call = inputs.delta_rule(T=1)
    pool = torch.randn(5, *call.state.shape[1:])
    indices = torch.tensor([3, 1], dtype=torch.int32)
    call.state = pool[indices].clone()
    wanted_out, wanted_final = call.reference()
    out = getattr(torch.ops.gdn, operator + "_")(
        *call.tokens, pool, initial_state_indices=indices, **call.options
    )
    assert_close(out, wanted_out, "out")
    assert_close(pool[indices], wanted_final, "states")


@pytest.mark.parametrize("operator", OPERATORS)
def test_speculative_decode_keeps_a_state_a_token(operator):
    call = inputs.delta_rule(T=3)
    pool = torch.full((8, *call.state.shape[1:]), float("nan"))
    indices = torch.tensor([[1, 2, 3], [6, 5, 4]])
    pool[2], pool[6] = call.state  # accepted two tokens, and one
    out = getattr(torch.ops.gdn, operator + "_")(
        *call.tokens,
        pool,
        initial_state_indices=indices,
        num_accepted=torch.tensor([2, 1]),
        **call.options,
    )
    whole = call.reference()
    assert_close(out, whole[0], "out")
    for t in range(3):
        part = inputs.DeltaRule(*(x[:, : t + 1] for x in call.tokens), call.state, call.options)
        assert_close(pool[indices[:, t]], part.reference()[1], f"states after token {t}")


@pytest.mark.parametrize("context_split", ["fixed", "off"])
def test_a_context_split_that_no_kernel_has_changes_no_bit(context_split):
    """Of float32 on any device, and of any dtype on the CPU, however long a sequence is."""
    call = inputs.delta_rule(lengths=[2200, 3])
    usual, last = torch.ops.gdn.chunk(
        *call.tokens, call.state, output_final_state=True, **call.options
    )
    check("chunk", call, (usual, last))
    how = call.options | dict(context_split=context_split)
    out, state = torch.ops.gdn.chunk(*call.tokens, call.state, output_final_state=True, **how)
    assert torch.equal(out, usual) and torch.equal(state, last)
    state = call.state.clone()
    assert torch.equal(torch.ops.gdn.chunk_(*call.tokens, state, **how), usual)
    assert torch.equal(state, last)


def test_chunk_writes_checkpoints():
    call = inputs.delta_rule(lengths=[130, 20, 64])
    checkpoints = torch.full((3, *call.state.shape[1:]), float("nan"))
    torch.ops.gdn.chunk_(
        *call.tokens,
        call.state.clone(),
        checkpoint_every=64,
        checkpoints=checkpoints,
        checkpoint_cu=torch.tensor([0, 2, 2, 3]),
        **call.options,
    )
    for row, (n, begin, tokens) in enumerate([(0, 0, 64), (0, 0, 128), (2, 150, 64)]):
        part = [x[:, begin : begin + tokens] for x in call.tokens]
        options = dict(state_layout="vk", use_qk_l2norm=True)
        wanted = inputs.DeltaRule(*part, call.state[n : n + 1], options).reference()[1]
        assert_close(checkpoints[row], wanted[0], f"checkpoint {row}")


def test_replay_equals_the_accepted_tokens():
    call = inputs.delta_rule(T=4)
    options = call.options
    H, HV, K, V, M = 2, 4, 32, 48, 4
    state = call.state.clone()
    records = [
        torch.full((2, M, H, K), float("nan")),
        torch.full((2, M, HV, V), float("nan")),
        torch.zeros(2, M, HV),
    ]
    out = torch.ops.gdn.replay_verify_(
        *call.tokens, state, torch.zeros(2, dtype=torch.int32), *records, **options
    )
    assert_close(out, call.reference()[0], "out")
    assert torch.equal(state, call.state)
    torch.ops.gdn.replay_commit_(state, torch.tensor([2, 3]), *records, state_layout="vk")
    for n, accepted in enumerate([2, 3]):
        part = inputs.DeltaRule(
            *(x[n : n + 1, :accepted] for x in call.tokens), call.state[n : n + 1], options
        )
        assert_close(state[n], part.reference()[1][0], f"state {n}")


def test_no_tokens_and_no_sequences():
    call = inputs.delta_rule(T=0)
    out, final = torch.ops.gdn.chunk(
        *call.tokens, call.state, output_final_state=True, **call.options
    )
    assert out.shape == (2, 0, 4, 48) and torch.equal(final, call.state)
    call = inputs.delta_rule(B=0)
    out, final = torch.ops.gdn.recurrent(
        *call.tokens, call.state, output_final_state=True, **call.options
    )
    assert out.shape == (0, 70, 4, 48) and final.shape == (0, 4, 48, 32)


def test_segments_are_joined_through_their_transitions():
    """docs/algorithm.md, section 4: S <- S M + N of each segment, found without the others, is the
    state of the one walk. In float64."""
    call = inputs.delta_rule(T=150)
    # So little decays and is written that a state is still felt at the end.
    call.g *= 0.02
    call.beta *= 0.2
    options = dict(state_layout="vk", use_qk_l2norm=True)
    cuts = [(0, 64), (64, 128), (128, 150)]
    segments = [[x[:, begin:end] for x in call.tokens] for begin, end in cuts]
    state = inputs.DeltaRule(*segments[0], call.state, options).reference()[1]
    K = state.shape[-1]
    for q, k, v, g, beta in segments[1:]:
        no_values = torch.zeros(*v.shape[:3], K)
        identity = torch.eye(K).expand(*state.shape[:2], K, K).contiguous()
        M = inputs.DeltaRule(q, k, no_values, g, beta, identity, options).reference()[1]
        N = inputs.DeltaRule(q, k, v, g, beta, call.state, options).reference(state=False)[1]
        assert (state @ M).norm() > 0.1 * state.norm()
        state = state @ M + N
    assert torch.allclose(state, call.reference()[1], atol=1e-12)


def test_the_reference_stages_agree_with_each_other():
    call = inputs.delta_rule(T=70)
    stages = torch.ops.gdn.reference_chunk_stages(
        *call.tokens, call.state, sequence=1, head=3, chunk_size=32, **call.options
    )
    names = "q k v beta g G state A L T u w v_new states out".split()
    names += "attention core carry M N states_o out_o".split()
    s = dict(zip(names, stages, strict=True))
    assert all(stage.dtype == torch.float64 for stage in stages)
    out, final = call.reference()
    eye = torch.eye(32, dtype=torch.float64)
    assert torch.allclose(s["L"] @ s["T"], eye.expand(3, 32, 32), atol=1e-12)
    assert torch.allclose(s["G"], s["g"].cumsum(1), atol=1e-12)
    for states, outs in (("states", "out"), ("states_o", "out_o")):
        assert torch.allclose(s[states][-1], final[1, 3], atol=1e-12)
        assert torch.allclose(s[outs].reshape(-1, 48)[:70], out[1, :, 3], atol=1e-12)
