"""Every message of gdn/staged/check.py, and that a call that fails wrote nothing."""

import inputs
import pytest
import torch
from gdn import staged


def call(operator="chunk", **changes):
    x = inputs.of_kind(0, T=6, K=8, V=4, N=3)
    arguments = {
        "q": x.q, "k": x.k, "v": x.v, "g": x.g, "beta": x.beta, "state_layout": "vk",
        "cu_seqlens": torch.tensor([0, 1, 3, 6]),
    }  # fmt: skip
    arguments["state" if operator.endswith("_") else "initial_state"] = x.state
    arguments.update(changes)
    return getattr(staged, operator)(**arguments)


def f(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype)


def ints(*values):
    return torch.tensor(values)


CASES = [
    ("q", {"q": f(6, 2, 8)}, ValueError, "gdn.chunk: q has shape [6,2,8], expected [*,*,*,*]"),
    ("k", {"k": f(1, 6, 2, 9)}, ValueError, "k has shape [1,6,2,9], expected [1,6,2,8]"),
    ("v dtype", {"v": f(1, 6, 4, 4, dtype=torch.bfloat16)}, TypeError,
     "v has dtype bfloat16, expected float32"),
    ("v", {"v": f(1, 5, 4, 4)}, ValueError, "v has shape [1,5,4,4], expected [1,6,4,4]"),
    ("heads", {"v": f(1, 6, 3, 4)}, ValueError, "v has 3 heads, expected a multiple of q's 2"),
    ("g", {"g": f(1, 6, 2)}, ValueError, "g has shape [1,6,2], expected [1,6,4]"),
    ("g dtype", {"g": f(1, 6, 4, dtype=torch.bfloat16)}, TypeError,
     "g has dtype bfloat16, expected float32"),
    ("beta", {"beta": f(1, 4, 6)}, ValueError, "beta has shape [1,4,6], expected [1,6,4]"),
    ("no gate", {"g": None}, ValueError, "g is absent, expected g, or A_log and a"),
    ("two gates", {"A_log": f(4), "a": f(1, 6, 4)}, ValueError, "g is given"),
    ("half a gate", {"g": None, "A_log": f(4)}, ValueError, "g is absent"),
    ("beta and b", {"b": f(1, 6, 4)}, ValueError, "b is given, expected beta or b, not both"),
    ("layout", {"state_layout": "xy"}, ValueError, "state_layout is 'xy', expected 'vk' or 'kv'"),
    ("compute", {"compute": "tf32"}, ValueError, "compute is 'tf32'"),
    ("force_kernel", {"force_kernel": "avx2"}, ValueError, "force_kernel is 'avx2', expected none"),
    ("chunk_size", {"chunk_size": 0}, ValueError, "chunk_size is 0, expected at least 1"),
    ("phase_b", {"phase_b": "fast"}, ValueError, "phase_b is 'fast'"),
    ("solver", {"solver": "qr"}, ValueError, "method is 'qr', expected 'exact' or 'neumann'"),
    ("iterations", {"solver": "neumann", "iterations": 0}, ValueError, "iterations is 0"),
    ("cu dtype", {"cu_seqlens": f(4)}, TypeError, "cu_seqlens has dtype float32"),
    ("cu empty", {"cu_seqlens": ints()}, TypeError, "cu_seqlens has dtype float32"),
    ("cu nothing", {"cu_seqlens": ints().long()}, ValueError, "cu_seqlens has shape [0]"),
    ("cu start", {"cu_seqlens": ints(1, 2, 3, 6)}, IndexError, "cu_seqlens[0] is 1, expected 0"),
    ("cu falls", {"cu_seqlens": ints(0, 3, 2, 6)}, IndexError, "cu_seqlens[2] is 2, expected at least 3"),
    ("cu past", {"cu_seqlens": ints(0, 3, 4, 7)}, IndexError, "cu_seqlens[3] is 7, expected at most 6"),
    ("longer", {"max_length": 2}, ValueError, "sequence 2 has 3 tokens, expected at most 2"),
    ("state", {"initial_state": f(3, 4, 8, 4)}, ValueError,
     "initial_state has shape [3,4,8,4], expected [*,4,4,8]"),
    ("slots", {"initial_state": f(2, 4, 4, 8)}, ValueError, "initial_state has 2 slots, expected 3"),
    ("indices of nothing", {"initial_state": None, "initial_state_indices": ints(0, 1, 2)}, ValueError,
     "initial_state_indices is given, expected it only with initial_state"),
    ("indices", {"initial_state_indices": ints(0, 1)}, ValueError,
     "initial_state_indices has shape [2], expected [3]"),
    ("indices range", {"initial_state_indices": ints(0, 1, 3)}, IndexError,
     "initial_state_indices[2] is 3, expected less than 3"),
    ("mask", {"has_initial_state": ints(0, 1, 1)}, TypeError, "has_initial_state has dtype int64"),
]  # fmt: skip

IN_PLACE = [
    ("batch", {"cu_seqlens": None}, ValueError, "state has 3 slots, expected 1"),
    ("twice", {"initial_state_indices": ints(1, 0, 1)}, IndexError,
     "final_state_indices[2] is 1 as is final_state_indices[0], expected distinct slots"),
    ("columns", {"initial_state_indices": ints(0, 1, 2), "final_state_indices": torch.zeros(3, 2).long()},
     ValueError, "final_state_indices has shape [3,2], expected at least 3 columns"),
    ("accepted", {"num_accepted": ints(1, 1, 1)}, ValueError,
     "initial_state_indices is absent, expected it with num_accepted"),
    ("accepted range", {"num_accepted": ints(1, 0, 1), "initial_state_indices": torch.zeros(3, 3).long()},
     IndexError, "num_accepted[1] is 0, expected 1 to 3"),
    ("final range", {"final_state_indices": ints(0, 1, 5)}, IndexError,
     "final_state_indices[2] is 5, expected less than 3"),
]  # fmt: skip


@pytest.mark.parametrize("name,changes,error,text", CASES, ids=[c[0] for c in CASES])
def test_messages(name, changes, error, text):
    with pytest.raises(error) as caught:
        call(**changes)
    assert text in str(caught.value)


@pytest.mark.parametrize("operator", ["chunk_", "recurrent_"])
@pytest.mark.parametrize("name,changes,error,text", IN_PLACE, ids=[c[0] for c in IN_PLACE])
def test_messages_in_place_and_nothing_is_written(operator, name, changes, error, text):
    pool = torch.full((3, 4, 4, 8), 7.0)
    with pytest.raises(error) as caught:
        call(operator, state=pool, **changes)
    assert text in str(caught.value)
    assert (pool == 7).all()


def test_other_devices_are_named():
    with pytest.raises(ValueError, match="k is on meta, expected cpu"):
        call(k=torch.zeros(1, 6, 2, 8, device="meta"))


def test_checkpoints_are_refused_by_name():
    with pytest.raises(NotImplementedError, match="checkpoint_every is 64"):
        call("chunk_", checkpoint_every=64)


@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_backward_is_refused_by_name(how):
    x = inputs.of_kind(0, T=6, K=8, V=4)
    for leaf in (x.v, x.beta):
        leaf.requires_grad_()

    def function(*five):
        return staged.chunk(*five, state_layout="vk", output_final_state=True, chunk_size=8)

    if how == "compiled":
        function = torch.compile(function, fullgraph=True, backend="aot_eager")
    out, state = function(*x.tokens)
    for result in (out, state):
        for leaf in (x.v, x.beta):
            with pytest.raises(NotImplementedError, match="gdn.chunk has no backward"):
                torch.autograd.grad(result.sum(), leaf, retain_graph=True)


def test_in_place_is_refused_under_grad():
    x = inputs.of_kind(0, T=6)
    x.v.requires_grad_()
    with pytest.raises(RuntimeError, match="gdn.recurrent_ works in place"):
        staged.recurrent_(*x.tokens, x.state, state_layout="vk")
    with torch.no_grad():
        staged.recurrent_(*x.tokens, x.state, state_layout="vk")
