"""The functions with other libraries' signatures, against the operators and plain PyTorch."""

import subprocess
import sys

import inputs
import pytest
import torch
from tolerance import assert_close

import gdn

DELTA_RULES = [gdn.chunk_gated_delta_rule, gdn.fused_recurrent_gated_delta_rule]


@pytest.mark.parametrize("function", DELTA_RULES)
@pytest.mark.parametrize("layout", ["kv", "vk"])
def test_delta_rule(function, layout):
    call = inputs.delta_rule(layout=layout)
    out, state = function(
        call.q,
        call.k,
        call.v,
        g=call.g,
        beta=call.beta,
        initial_state=call.state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
        state_v_first=layout == "vk",
    )
    wanted = call.reference()
    assert_close(out, wanted[0], "out")
    assert_close(state, wanted[1], "state")


@pytest.mark.parametrize("function", DELTA_RULES)
def test_delta_rule_defaults(function):
    """No l2norm, no final state, scale K ** -0.5, a zero initial state."""
    call = inputs.delta_rule(layout="kv", T=20)
    call.q, call.k = (torch.nn.functional.normalize(x, dim=-1) for x in (call.q, call.k))
    call.options["use_qk_l2norm"] = False
    out, state = function(call.q, call.k, call.v, g=call.g, beta=call.beta)
    assert state is None
    assert_close(out, call.reference(state=False)[0], "out")
    half, _ = function(call.q, call.k, call.v, g=call.g, beta=call.beta, scale=32**-0.5 / 2)
    assert_close(half * 2, call.reference(state=False)[0], "out with a scale")


@pytest.mark.parametrize("function", DELTA_RULES)
@pytest.mark.parametrize("allow_neg_eigval", [False, True])
def test_delta_rule_computes_gates(function, allow_neg_eigval):
    call = inputs.delta_rule(layout="kv", dtype=torch.float16)
    a, b = torch.randn(2, 70, 4).half(), torch.randn(2, 70, 4).half()
    A_log, dt_bias = torch.randn(4), torch.randn(4)
    out, state = function(
        call.q,
        call.k,
        call.v,
        g=a,
        beta=b,
        initial_state=call.state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
        use_gate_in_kernel=True,
        A_log=A_log,
        dt_bias=dt_bias,
        use_beta_sigmoid_in_kernel=True,
        allow_neg_eigval=allow_neg_eigval,
    )
    call.g = -A_log.exp() * torch.nn.functional.softplus(a.float() + dt_bias)
    call.beta = b.float().sigmoid() * (1 + allow_neg_eigval)
    wanted = call.reference()
    assert_close(out, wanted[0], "out")
    assert_close(state, wanted[1], "state")


@pytest.mark.parametrize("function", DELTA_RULES)
def test_delta_rule_takes_what_the_operators_refuse(function):
    """16-bit gates and states, beta of another dtype than q, and a last axis that is not
    contiguous."""
    call = inputs.delta_rule(layout="kv", state_dtype=torch.bfloat16)
    call.g, call.beta = call.g.bfloat16(), call.beta.half()
    q, k = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in (call.q, call.k))
    assert q.stride(-1) != 1
    out, state = function(
        q,
        k,
        call.v,
        g=call.g,
        beta=call.beta,
        initial_state=call.state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    call.g, call.beta = call.g.float(), call.beta.float()
    wanted = call.reference()
    assert state.dtype == torch.float32
    assert_close(out, wanted[0], "out")
    assert_close(state, wanted[1], "state")


def test_recurrent_without_g_and_beta():
    call = inputs.delta_rule(layout="kv", T=5)
    out, _ = gdn.fused_recurrent_gated_delta_rule(
        call.q, call.k, call.v, use_qk_l2norm_in_kernel=True
    )
    call.g, call.beta = torch.zeros_like(call.g), None
    assert_close(out, call.reference(state=False)[0], "out")


@pytest.mark.parametrize("function", DELTA_RULES)
def test_delta_rule_reads_packed_sequences(function):
    call = inputs.delta_rule(layout="kv", lengths=[5, 0, 70, 1], index_dtype=torch.int64)
    out, state = function(
        call.q,
        call.k,
        call.v,
        g=call.g,
        beta=call.beta,
        initial_state=call.state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
        cu_seqlens=call.options["cu_seqlens"],
    )
    wanted = call.reference()
    assert_close(out, wanted[0], "out")
    assert_close(state, wanted[1], "state")


def test_kernel_forces_the_reference():
    call = inputs.delta_rule(layout="kv", dtype=torch.bfloat16)
    with gdn.kernel("reference"):
        out, _ = gdn.chunk_gated_delta_rule(
            call.q, call.k, call.v, call.g, call.beta, use_qk_l2norm_in_kernel=True
        )
    assert torch.equal(out, call.reference(state=False)[0].bfloat16())
    with pytest.raises(NotImplementedError, match="nonesuch"), gdn.kernel("nonesuch"):
        gdn.l2norm(call.q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gating(dtype):
    a, b = torch.randn(9, 4).to(dtype) * 8, torch.randn(9, 4).to(dtype) * 8
    A_log, dt_bias = torch.randn(4), torch.randn(4)
    g, beta = gdn.fused_gdn_gating(A_log, a, b, dt_bias, beta=0.5, threshold=10.0)
    assert g.shape == beta.shape == (1, 9, 4) and g.dtype == torch.float32 and beta.dtype == dtype
    softplus = torch.nn.functional.softplus(a.double() + dt_bias, beta=0.5, threshold=10.0)
    assert_close(g[0], -A_log.double().exp() * softplus, "g")
    assert_close(beta[0], b.double().sigmoid(), "beta")
    g3, beta3 = gdn.fused_gdn_gating(A_log, a.view(3, 3, 4), b.view(3, 3, 4), dt_bias, 0.5, 10.0)
    assert torch.equal(g3.view(9, 4), g[0]) and torch.equal(beta3.view(9, 4), beta[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_norms(dtype):
    x, z = inputs.strided(torch.randn(2, 3, 40).to(dtype)), torch.randn(2, 3, 40).to(dtype)
    weight = torch.randn(40)
    X, Z = x.double(), z.double()
    wanted = X / (X.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    assert_close(gdn.l2norm(x), wanted, "l2norm")
    assert gdn.l2norm(x).dtype == dtype
    assert_close(gdn.l2norm(x, output_dtype=torch.float32), wanted, "l2norm in float32")
    wanted = X * (X.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight * Z * Z.sigmoid()
    assert_close(gdn.rms_norm_gated(x, z, weight, eps=1e-5), wanted, "rms_norm_gated")


def test_solve_tril():
    lower = torch.randn(2, 3, 20, 20) * 0.2
    L = lower.double().tril(-1) + torch.eye(20, dtype=torch.float64)
    inverse, residual = gdn.solve_tril(lower, return_residual=True)
    assert_close(inverse, torch.linalg.inv(L), "inverse", hard=True)
    assert residual.shape == (2, 3) and residual.max() < 1e-5
    assert_close(gdn.solve_tril(lower, method="neumann"), torch.linalg.inv(L), "neumann", hard=True)
    assert isinstance(gdn.solve_tril(lower), torch.Tensor)


def convolution(x, weight, bias, state, silu):
    """x [B,D,T], state [B,D,S] of the inputs before it; in float64."""
    W = weight.shape[1]
    line = torch.cat([state, x], 2).double()
    y = torch.nn.functional.conv1d(
        line[..., line.shape[2] - x.shape[2] - W + 1 :],
        weight.double()[:, None],
        groups=len(weight),
    )
    y = y if bias is None else y + bias.double()[:, None]
    return torch.nn.functional.silu(y) if silu else y


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("tokens_last", [True, False])
def test_convolution_of_sequences(activation, tokens_last):
    B, D, T, W = 2, 12, 9, 4
    x = torch.randn(B, D, T) if tokens_last else torch.randn(B, T, D).transpose(1, 2)
    weight, bias, state = torch.randn(D, W), torch.randn(D), torch.randn(B, D, W - 1)
    y = gdn.causal_conv1d_fn(x, weight, bias, activation=activation)
    assert_close(y, convolution(x, weight, bias, torch.zeros_like(state), activation), "y")
    y, final = gdn.causal_conv1d_fn(x, weight, bias, None, state, True, activation=activation)
    assert_close(y, convolution(x, weight, bias, state, activation), "y from a state")
    assert torch.equal(final, x[..., -3:])
    place = torch.empty(B, D, W - 1)
    assert gdn.causal_conv1d_fn(x, weight, bias, None, state, True, place)[
        1
    ] is place and torch.equal(place, final)


@pytest.mark.parametrize("T", [None, 1, 3])
def test_convolution_update(T):
    B, D, W, S = 3, 12, 4, 5
    x = torch.randn(B, D) if T is None else torch.randn(B, D, T)
    weight, pool = torch.randn(D, W), torch.randn(7, D, S)
    slots = torch.tensor([5, -1, 2])
    before = pool.clone()
    y = gdn.causal_conv1d_update(x, pool, weight, activation="silu", conv_state_indices=slots)
    assert y.shape == x.shape
    wanted = convolution(x.view(B, D, -1), weight, None, before[slots], True)
    wanted[1] = 0
    assert_close(y.view(B, D, -1), wanted, "y")
    line = torch.cat([before[slots], x.view(B, D, -1)], 2)[..., -S:]
    before[5], before[2] = line[0], line[2]
    assert torch.equal(pool, before)


def test_python_m_gdn_prints_what_the_machine_has():
    found = subprocess.run(
        [sys.executable, "-m", "gdn"], capture_output=True, text=True, check=True
    ).stdout
    assert found.splitlines()[0] == f"gdn {gdn.__version__}"
    assert all(f"  {kernel} " in found for kernel in gdn.kernels())


@pytest.mark.parametrize("argument, code", [("--help", 0), ("nonesuch", 2)])
def test_python_m_gdn_with_arguments(argument, code):
    run = subprocess.run([sys.executable, "-m", "gdn", argument], capture_output=True, text=True)
    assert run.returncode == code
    assert (run.stdout or run.stderr).startswith("usage: python -m gdn")


def test_has_kernel_takes_what_makes_a_device():
    assert gdn.has_kernel("cpu") and gdn.has_kernel("cpu:0") and gdn.has_kernel(torch.device("cpu"))


def test_modules_are_reached_from_gdn_and_not_imported_with_it():
    code = """
import sys, gdn
assert not {"gdn.staged", "gdn.compat", "gdn.integrations"} & sys.modules.keys()
assert not hasattr(gdn, "nonesuch")
assert "staged" in dir(gdn) and "compat" in dir(gdn)
gdn.staged.chunk, gdn.compat.vllm.chunk_gated_delta_rule
gdn.compat.hpu_gdn_pytorch.hpu_chunk_gated_delta_rule, gdn.integrations.transformers.enable
"""
    subprocess.run([sys.executable, "-c", code], check=True)
