"""The staged pipeline on the captured layers, which reach a sum of log-decays of -96 in a chunk."""

import pytest
import torch
from gdn import staged
from test_captures import captures, layer  # noqa: F401  (fixtures)
from tolerance import assert_close

ROUTES = {
    "recurrent": {},
    "legacy": {"phase_b": "legacy"},
    "optimized": {"phase_b": "optimized"},
    "neumann": {"solver": "neumann"},
    "chunk of 128": {"chunk_size": 128},
    "bfloat16": {"compute": "bfloat16"},
}


@pytest.mark.parametrize("name", ROUTES)
def test_the_stages_give_the_stored_output_and_state(layer, name):  # noqa: F811
    operator = staged.recurrent if name == "recurrent" else staged.chunk
    compute = ROUTES[name].get("compute", "float32")
    dtype = torch.bfloat16 if compute == "bfloat16" else torch.float32
    out, state = operator(
        *(layer[x].to(dtype) for x in "qkv"), layer["g_expected"][None],
        layer["beta_expected"][None], state_layout="vk", output_final_state=True,
        use_qk_l2norm=True, cu_seqlens=layer["cu_seqlens"], **ROUTES[name],
    )  # fmt: skip
    assert_close(out, layer["out_expected"], compute=compute)
    assert_close(state, layer["final_state_expected"], compute=compute, state=True)
