"""The captured layers in data/, whose expectations an independent program computed."""

import pathlib

import pytest
import torch
from safetensors.torch import load_file
from tolerance import assert_close

import gdn

DATA = pathlib.Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def captures():
    return {
        **load_file(DATA / "gdn_captures.safetensors"),
        **load_file(DATA / "gdn_captures_layer2_state.safetensors"),
    }


@pytest.fixture(params=["layer0.", "layer2."])
def layer(request, captures):
    found = {
        name[7:]: tensor for name, tensor in captures.items() if name.startswith(request.param)
    }
    return {**found, "cu_seqlens": captures["cu_seqlens"]}


def test_gating_gives_the_stored_gates(layer):
    g, beta = gdn.fused_gdn_gating(layer["A_log"], layer["a"], layer["b"].float(), layer["dt_bias"])
    assert_close(g[0], layer["g_expected"], "g")
    assert_close(beta[0], layer["beta_expected"], "beta")


@pytest.mark.parametrize(
    "function", [gdn.chunk_gated_delta_rule, gdn.fused_recurrent_gated_delta_rule]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("gates", ["given", "computed"])
def test_the_delta_rule_gives_the_stored_output_and_state(layer, function, dtype, gates):
    given = dict(g=layer["g_expected"][None], beta=layer["beta_expected"][None])
    computed = dict(
        g=layer["a"][None],
        beta=layer["b"][None],
        use_gate_in_kernel=True,
        use_beta_sigmoid_in_kernel=True,
        A_log=layer["A_log"],
        dt_bias=layer["dt_bias"],
    )
    out, state = function(
        *(layer[x].to(dtype) for x in "qkv"),
        **(given if gates == "given" else computed),
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
        state_v_first=True,
        cu_seqlens=layer["cu_seqlens"],
    )
    how = {}
    if dtype == torch.bfloat16 and function is gdn.chunk_gated_delta_rule:
        how = dict(compute="bfloat16")
    assert_close(out, layer["out_expected"], "out", **how)
    assert_close(state, layer["final_state_expected"], "state", state=True, **how)
