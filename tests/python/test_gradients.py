"""There are no gradients, and nobody gets zeros in their place."""

import inputs
import pytest
import torch

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
