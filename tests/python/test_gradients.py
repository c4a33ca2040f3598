"""There are no gradients, and nobody gets zeros in their place."""

import contextlib

import inputs
import pytest
import torch
from gdn import staged
from torch.autograd import forward_ad

import gdn

call = inputs.delta_rule(T=5)
x = torch.randn(2, 5, 12)
weight = torch.randn(12, 4)
A_log = torch.randn(4)
records = torch.zeros(2, 4, 2, 32), torch.zeros(2, 4, 4, 48), torch.zeros(2, 4, 4)
ops = torch.ops.gdn

FUNCTIONAL = {
    "chunk": (lambda t: ops.chunk(t, *call.tokens[1:], **call.options), call.q),
    "chunk, of the state": (
        lambda t: ops.chunk(*call.tokens, t, output_final_state=True, **call.options),
        call.state,
    ),
    "recurrent": (lambda t: ops.recurrent(*call.tokens[:4], t, **call.options), call.beta),
    "recurrent, of a gate": (
        lambda t: ops.recurrent(*call.tokens[:3], None, None, a=t, A_log=A_log, **call.options),
        torch.randn(2, 5, 4),
    ),
    "gating": (lambda t: ops.gating(x[..., :4], t), A_log),
    "l2norm": (ops.l2norm, x),
    "rms_norm_gated": (lambda t: ops.rms_norm_gated(x, x, t), torch.randn(12)),
    "causal_conv1d": (lambda t: ops.causal_conv1d(t, weight), x),
    "solve_tril": (lambda t: ops.solve_tril(t), torch.randn(8, 8)),
    "chunk, the function": (
        lambda t: gdn.chunk_gated_delta_rule(t, *call.tokens[1:], use_qk_l2norm_in_kernel=True),
        call.q,
    ),
}
IN_PLACE = {
    "chunk_": (
        lambda t: ops.chunk_(t, *call.tokens[1:], call.state.clone(), **call.options),
        call.q,
    ),
    "recurrent_": (lambda t: ops.recurrent_(*call.tokens, t, **call.options), call.state),
    "replay_verify_": (
        lambda t: ops.replay_verify_(
            *call.tokens[:2], t, *call.tokens[3:], call.state.clone(), *rest(5), **call.options
        ),
        call.v,
    ),
    "replay_commit_": (
        lambda t: ops.replay_commit_(
            call.state.clone(), torch.tensor([0, 0]), t, *records[1:], state_layout="vk"
        ),
        records[0],
    ),
    "causal_conv1d_": (lambda t: ops.causal_conv1d_(x, t, None, torch.randn(2, 12, 3)), weight),
}


def rest(M):
    return (
        torch.tensor([0, 0]),
        torch.zeros(2, M, 2, 32),
        torch.zeros(2, M, 4, 48),
        torch.zeros(2, M, 4),
    )


def first(results):
    """The first result that is not empty and requires a gradient."""
    results = results if isinstance(results, (tuple, list)) else (results,)
    return next(r for r in results if r.numel())


@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize("case", FUNCTIONAL)
def test_backward_raises_by_name(case, how):
    run, argument = FUNCTIONAL[case]
    if how == "compiled":
        torch._dynamo.reset()
        run = torch.compile(run, fullgraph=True, backend="aot_eager")
    wanted = first(run(argument))
    argument = argument.clone().requires_grad_()
    out = first(run(argument))
    assert torch.equal(out, wanted) and out.requires_grad
    with pytest.raises(NotImplementedError, match=rf"gdn\.{case.split(',')[0]} has no backward"):
        (out * 2).sum().backward()
    with torch.no_grad():
        assert not first(run(argument)).requires_grad


@pytest.mark.parametrize("case", IN_PLACE)
@pytest.mark.parametrize("leaf", [True, False])
def test_in_place_operators_raise(case, leaf):
    run, argument = IN_PLACE[case]
    run(argument.clone())
    argument = argument.clone().requires_grad_()
    argument = argument if leaf else argument * 1
    with pytest.raises(RuntimeError, match=f"gdn.{case}: a tensor requires a gradient"):
        run(argument)
    with torch.no_grad():
        run(argument.detach().clone().requires_grad_())
    with pytest.raises(Exception, match=f"gdn.{case}: a tensor requires a gradient"):
        torch.compile(run, fullgraph=True, backend="aot_eager")(argument)


WRITES = {
    "chunk_": lambda s: ops.chunk_(*call.tokens, s, **call.options),
    "recurrent_": lambda s: ops.recurrent_(*call.tokens, s, **call.options),
    "replay_verify_": lambda s: ops.replay_verify_(*call.tokens, s, *rest(5), **call.options),
    "replay_commit_": lambda s: ops.replay_commit_(
        s, torch.tensor([0, 0]), *records, state_layout="vk"
    ),
    "causal_conv1d_": lambda s: ops.causal_conv1d_(x, weight, None, s),
}


def state_of(case):
    return torch.randn(2, 12, 3) if case == "causal_conv1d_" else call.state.clone()


@pytest.mark.parametrize("case", WRITES)
def test_a_backward_hears_that_what_it_saved_was_written(case):
    """PyTorch's version counters: no gradient from a state that is no longer what it was."""
    state, factor = state_of(case), torch.ones((), requires_grad=True)
    loss = (state[:1] * factor).sum()
    with torch.no_grad():
        WRITES[case](state)
    assert state._version > 0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_every_tensor_that_a_schema_calls_written_counts():
    counted = rest(5)
    ops.replay_verify_(*call.tokens, call.state.clone(), *counted, **call.options)
    assert [t._version > 0 for t in counted] == [False, True, True, True]
    checkpoints = torch.zeros(2, *call.state.shape[1:])
    ops.chunk_(
        *call.tokens, call.state.clone(), checkpoint_every=64, checkpoints=checkpoints,
        checkpoint_cu=torch.tensor([0, 0, 0]), **call.options,
    )  # fmt: skip
    assert checkpoints._version > 0


@pytest.mark.parametrize("case", WRITES)
def test_states_of_inference_mode_have_no_version_and_are_taken(case):
    with torch.inference_mode():
        state = state_of(case)
        WRITES[case](state)
    WRITES[case](state)


@pytest.mark.parametrize("case", FUNCTIONAL)
def test_forward_mode_raises_by_name(case):
    run, argument = FUNCTIONAL[case]
    operator = case.split(",")[0]
    for context in (contextlib.nullcontext(), torch.no_grad()):
        with context, forward_ad.dual_level():
            run(argument)  # nobody asks for a tangent
            dual = forward_ad.make_dual(argument, torch.ones_like(argument))
            with pytest.raises(NotImplementedError, match=f"gdn.{operator} has no forward-mode"):
                run(dual)
    with pytest.raises(NotImplementedError, match=f"gdn.{operator} has no forward-mode"):
        torch.func.jvp(lambda t: first(run(t)), (argument,), (argument,))


def test_forward_mode_raises_in_place():
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(call.q, torch.ones_like(call.q))
        with pytest.raises(NotImplementedError, match="gdn.recurrent_ has no forward-mode"):
            gdn.ops.recurrent_(dual, *call.tokens[1:], call.state.clone(), **call.options)


@pytest.mark.parametrize("case", ["recurrent_", "causal_conv1d_"])
def test_the_functions_say_the_same_under_grad(case, monkeypatch):
    """A RuntimeError, whatever failed before; on the staged pipeline and on fake tensors too."""
    with pytest.raises(IndexError):
        gdn.ops.recurrent_(
            *call.tokens, call.state, initial_state_indices=torch.tensor([0, 7]), **call.options
        )
    run, argument = IN_PLACE[case]
    argument = argument.clone().requires_grad_()
    messages = set()
    for where in (ops, gdn.ops, staged):
        monkeypatch.setitem(globals(), "ops", where)
        with pytest.raises(RuntimeError) as caught:
            run(argument)
        assert type(caught.value) is RuntimeError
        messages.add(str(caught.value))
    assert len(messages) == 1
