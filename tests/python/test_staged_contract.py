"""gdn.staged takes the place of torch.ops.gdn: the same arguments, defaults and results."""

import inspect

import gdn
import inputs
import pytest
import torch
from gdn import staged
from gdn.staged.call import Call
from tolerance import assert_close


def arguments_of(function):
    """Name to default; those of a delta rule that go through to Call too."""
    parameters = dict(inspect.signature(function).parameters)
    if parameters.pop("options", None) is not None:
        parameters |= inspect.signature(Call).parameters
    return {name: p.default for name, p in parameters.items()}


@pytest.mark.parametrize("name", staged.__all__)
def test_every_argument_and_default_of_the_schema(name):
    got = arguments_of(getattr(staged, name))
    for argument in getattr(torch.ops.gdn, name).default._schema.arguments:
        assert argument.name in got
        if argument.has_default_value():
            assert got[argument.name] == argument.default_value, argument.name


def test_every_operator_is_there():
    operators = {name for name in vars(gdn.ops) if not name.startswith("_") and name != "operator"}
    assert operators == set(staged.__all__)


@pytest.fixture
def on_a_device_without_kernels(monkeypatch):
    for module in (gdn.delta_rule, gdn.elementwise, gdn.causal_conv1d):
        monkeypatch.setattr(module, "ops", staged)


def test_the_functions_work_there(on_a_device_without_kernels):
    call = inputs.delta_rule(T=20, layout="kv")
    expected, last = call.reference()
    for function in (gdn.chunk_gated_delta_rule, gdn.fused_recurrent_gated_delta_rule):
        q, k, v, g, beta = call.tokens
        out, state = function(
            q, k, v, g, beta=beta, initial_state=call.state, output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )  # fmt: skip
        assert_close(out, expected)
        assert_close(state, last, state=True)
    x, weight = torch.randn(2, 6, 5), torch.randn(6, 4)
    y, state = gdn.causal_conv1d_fn(x, weight, activation="silu", return_final_states=True)
    update = gdn.causal_conv1d_update(x[:, :, 0], torch.zeros(2, 6, 3), weight, activation="silu")
    torch.testing.assert_close(update, y[:, :, 0])
    torch.testing.assert_close(state, x[:, :, 2:])
    lower = torch.randn(3, 8, 8)
    assert_close(gdn.solve_tril(lower), torch.linalg.inv(lower.double().tril(-1) + torch.eye(8)))
    assert gdn.l2norm(x).norm(dim=-1).allclose(torch.ones(2, 6), atol=1e-3)
    assert gdn.rms_norm_gated(x, x, torch.ones(5)).shape == x.shape
    g, beta = gdn.fused_gdn_gating(torch.zeros(5), x[0], x[0], torch.zeros(5))
    assert g.shape == beta.shape == (1, 6, 5)
