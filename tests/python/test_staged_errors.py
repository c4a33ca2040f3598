"""What is wrong with a call is said in the core's words, and a call that fails wrote nothing."""

import gdn
import inputs
import pytest
import torch
from gdn import staged


def f(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype)


def ints(*values):
    return torch.tensor(values)


def arguments_of(operator):
    """A right call, by name."""
    x = inputs.of_kind(0, T=6, K=8, V=4, N=3)
    tokens = {"q": x.q, "k": x.k, "v": x.v, "g": x.g, "beta": x.beta, "state_layout": "vk"}
    cu = {"cu_seqlens": torch.tensor([0, 1, 3, 6])}
    state = torch.full((3, 4, 4, 8), 7.0)
    records = {
        "num_accepted": ints(1, 0, 2), "record_k": f(3, 5, 2, 8), "record_v": f(3, 5, 4, 4),
        "record_g": f(3, 5, 4),
    }  # fmt: skip
    convolution = {"x": torch.randn(1, 6, 10), "weight": torch.randn(10, 4), **cu}
    return {
        "chunk": tokens | cu | {"initial_state": state},
        "chunk_": tokens | cu | {"state": state},
        "recurrent": tokens | cu | {"initial_state": state},
        "recurrent_": tokens | cu | {"state": state},
        "replay_verify_": tokens | cu | records | {"state": state},
        "replay_commit_": records | {"state": state, "state_layout": "vk"},
        "causal_conv1d": convolution | {"initial_state": f(3, 10, 3)},
        "causal_conv1d_": convolution | {"bias": None, "state": torch.full((3, 10, 6), 7.0)},
        "gating": {"a": f(1, 6, 4), "A_log": f(4), "dt_bias": f(4), "b": f(1, 6, 4)},
        "l2norm": {"x": f(2, 3)},
        "rms_norm_gated": {"x": f(2, 3), "z": f(2, 3), "weight": f(3)},
        "solve_tril": {"lower": f(2, 3, 3)},
    }[operator]


def call(operator="chunk", **changes):
    return getattr(staged, operator)(**arguments_of(operator) | changes)


TOKENS = {
    "q": {"q": f(6, 2, 8)},
    "q dtype": {"q": f(1, 6, 2, 8, dtype=torch.float64)},
    "complex q": {"q": f(1, 6, 2, 8, dtype=torch.complex64)},
    "k": {"k": f(1, 6, 2, 9)},
    "k dtype": {"k": f(1, 6, 2, 8, dtype=torch.float16)},
    "v": {"v": f(1, 5, 4, 4)},
    "v dtype": {"v": f(1, 6, 4, 4, dtype=torch.bfloat16)},
    "heads": {"v": f(1, 6, 3, 4)},
    "no heads": {"v": f(1, 6, 0, 4)},
    "g": {"g": f(1, 6, 2)},
    "g dtype": {"g": f(1, 6, 4, dtype=torch.bfloat16)},
    "beta": {"beta": f(1, 4, 6)},
    "beta dtype": {"beta": f(1, 6, 4, dtype=torch.float16)},
    "no gate": {"g": None},
    "two gates": {"A_log": f(4), "a": f(1, 6, 4)},
    "a gate and a bias": {"dt_bias": f(4)},
    "a alone": {"g": None, "a": f(1, 6, 4)},
    "A_log alone": {"g": None, "A_log": f(4)},
    "A_log": {"g": None, "A_log": f(1), "a": f(1, 6, 4)},
    "softplus": {"softplus_beta": 0.0},
    "threshold": {"softplus_threshold": float("nan")},
    "beta and b": {"b": f(1, 6, 4)},
    "scale": {"scale": float("inf")},
    "eps": {"l2norm_eps": -1.0},
    "layout": {"state_layout": "xy"},
    "cu dtype": {"cu_seqlens": f(4)},
    "cu of nothing": {"cu_seqlens": ints().long()},
    "cu axes": {"cu_seqlens": ints(0, 6)[None]},
    "cu start": {"cu_seqlens": ints(1, 2, 3, 6)},
    "cu falls": {"cu_seqlens": ints(0, 3, 2, 6)},
    "cu past": {"cu_seqlens": ints(0, 3, 4, 7)},
    "cu of rows": {k: f(2, 6, 4 - 2 * (k in "qk"), 8 - 4 * (k == "v")) for k in "qkv"},
}
OPTIONS = {"compute": {"compute": "tf32"}}
CHUNK = {"chunk_size": {"chunk_size": 0}, "context_split": {"context_split": "on"}}
STATES = {
    "state": {"initial_state": f(3, 4, 8, 4)},
    "state axes": {"initial_state": f(4, 4, 8)},
    "state dtype": {"initial_state": f(3, 4, 4, 8, dtype=torch.float64)},
    "few slots": {"initial_state": f(2, 4, 4, 8)},
    "many slots": {"initial_state": f(4, 4, 4, 8)},
    "indices of nothing": {"initial_state": None, "initial_state_indices": ints(0, 1, 2)},
    "mask of nothing": {"initial_state": None, "has_initial_state": ints(0, 1, 1).bool()},
}
INDICES = {
    "indices": {"initial_state_indices": ints(0, 1)},
    "indices dtype": {"initial_state_indices": f(3)},
    "indices of two axes": {"initial_state_indices": torch.zeros(3, 2).long()},
    "indices range": {"initial_state_indices": ints(0, 1, 3)},
    "mask": {"has_initial_state": ints(0, 1, 1)},
    "mask length": {"has_initial_state": ints(0, 1).bool()},
}
IN_PLACE = {
    "batch": {"state": f(4, 4, 4, 8)},
    "few slots": {"state": f(2, 4, 4, 8)},
    "twice": {"initial_state_indices": ints(1, 0, 1)},
    "twice, of more": {
        "state": f(9, 4, 4, 8), "initial_state_indices": ints(1, 2, 3),
        "final_state_indices": torch.tensor([[8, 0, 0], [7, 6, 0], [7, 8, 6]]),
    },
    "another's": {"initial_state_indices": ints(0, 1, -1), "final_state_indices": ints(2, 0, 1)},
    "another's, without indices": {"final_state_indices": ints(1, 0, 2)},
    "another's state a token": {
        "initial_state_indices": ints(0, 1, 2), "state": f(9, 4, 4, 8),
        "final_state_indices": torch.tensor([[3, 0, 0], [4, 5, 0], [6, 1, 8]]),
    },
    "columns": {
        "initial_state_indices": ints(0, 1, 2), "final_state_indices": torch.zeros(3, 2).long()
    },
    "final": {"final_state_indices": ints(0, 1)},
    "final axes": {"final_state_indices": ints(0, 1, 2)[:, None, None]},
    "final dtype": {"final_state_indices": f(3)},
    "final range": {"final_state_indices": ints(0, 1, 5)},
    "final column range": {
        "initial_state_indices": ints(0, 1, 2),
        "final_state_indices": torch.tensor([[0, 9, 9], [1, -1, 9], [-1, -1, 9]]),
    },
    "accepted": {"num_accepted": ints(1, 1, 1)},
    "accepted of one axis": {"num_accepted": ints(1, 1, 1), "initial_state_indices": ints(0, 1, 2)},
    "accepted range": {
        "num_accepted": ints(1, 0, 1), "initial_state_indices": torch.zeros(3, 3).long()
    },
    "accepted columns": {
        "num_accepted": ints(1, 1, 1), "initial_state_indices": torch.zeros(3, 0).long()
    },
    "column range": {
        "num_accepted": ints(1, 2, 1),
        "initial_state_indices": torch.tensor([[0, -1, -1], [9, 4, 9], [1, 1, 1]]),
    },
}  # fmt: skip
REPLAY = {
    "state": {"state": f(3, 4, 8, 4)},
    "few slots": {"state": f(2, 4, 4, 8), "record_k": f(2, 5, 2, 8)},
    "record_k axes": {"record_k": f(3, 5, 8)},
    "record_v": {"record_v": f(3, 4, 4, 4)},
    "record_g": {"record_g": f(3, 5, 2)},
    "record_g dtype": {"record_g": f(3, 5, 4, dtype=torch.float16)},
    "accepted": {"num_accepted": ints(1, 2)},
    "accepted dtype": {"num_accepted": f(3)},
    "accepted range": {"num_accepted": ints(1, 2, 6)},
    "indices": {"state_indices": ints(0, 1)},
    "indices range": {"state_indices": ints(0, 1, 3)},
    "twice": {"state_indices": ints(0, 1, 0)},
}
VERIFY = {
    "record_k": {"record_k": f(3, 5, 1, 8)},
    "records": {"record_k": f(3, 2, 2, 8), "record_v": f(3, 2, 4, 4), "record_g": f(3, 2, 4)},
}
CONVOLUTION = {
    "x": {"x": f(6, 10)},
    "x dtype": {"x": f(1, 6, 10, dtype=torch.int32)},
    "weight": {"weight": f(9, 4)},
    "bias": {"bias": f(9)},
    "cu past": {"cu_seqlens": ints(0, 3, 4, 7)},
}
CONVOLUTION_STATE = {
    "state": {"initial_state": f(3, 9, 3)},
    "short": {"initial_state": f(3, 10, 2)},
    "few slots": {"initial_state": f(2, 10, 3)},
}
CONVOLUTION_IN_PLACE = {
    "short": {"state": f(3, 10, 2)},
    "twice": {"initial_state_indices": ints(1, 0, 1)},
    "one slot, many columns": {
        "num_accepted": ints(1, 1, 1), "final_state_indices": torch.zeros(3, 3).long()
    },
    "rejected too many": {"num_accepted": ints(1, 3, 1)},
    "short for the rejected": {"num_accepted": ints(1, 1, 1), "state": f(3, 10, 4)},
}  # fmt: skip
GATING = {
    "a": {"a": f(6, 4)},
    "A_log": {"A_log": f(1)},
    "dt_bias": {"dt_bias": f(1, 4)},
    "b": {"b": f(1, 1, 4)},
    "softplus": {"softplus_beta": -1.0},
}
ROWS = {
    "x": {"x": f(1, 1, 1, 2, 3)},
    "x axes": {"x": torch.tensor(1.0)},
    "no x": {"x": f(2, 0)},
    "x dtype": {"x": ints(1, 2)},
    "eps": {"eps": float("nan")},
}
NORM = {
    "z": {"z": f(1, 3)},
    "z dtype": {"z": f(2, 3, dtype=torch.float16)},
    "weight": {"weight": f(1)},
}
TRIL = {
    "axes": {"lower": f(3)},
    "square": {"lower": f(2, 3, 4)},
    "dtype": {"lower": torch.zeros(3, 3).int()},
    "method": {"method": "qr"},
    "compute": {"compute": "tf32"},
    "iterations": {"method": "neumann", "iterations": 0},
}
WRONG = {
    "chunk": TOKENS | OPTIONS | CHUNK | STATES | INDICES,
    "chunk_": TOKENS | OPTIONS | CHUNK | INDICES | IN_PLACE,
    "recurrent": TOKENS | OPTIONS | STATES | INDICES,
    "recurrent_": TOKENS | OPTIONS | INDICES | IN_PLACE,
    "replay_verify_": TOKENS | REPLAY | VERIFY,
    "replay_commit_": REPLAY,
    "causal_conv1d": CONVOLUTION | CONVOLUTION_STATE,
    "causal_conv1d_": CONVOLUTION | CONVOLUTION_IN_PLACE,
    "gating": GATING,
    "l2norm": ROWS,
    "rms_norm_gated": ROWS | NORM,
    "solve_tril": TRIL,
}
ALL = [(operator, name) for operator, cases in WRONG.items() for name in cases]


def test_every_operator_has_wrong_calls():
    assert WRONG.keys() == set(staged.__all__)


def failure(module, operator, name):
    """What a wrong call raises; that it wrote nothing."""
    arguments = arguments_of(operator) | WRONG[operator][name]
    written = {
        key: (x, x.clone())
        for key, x in arguments.items()
        if key.startswith(("state", "record")) and isinstance(x, torch.Tensor)
    }
    with pytest.raises((ValueError, TypeError, IndexError)) as caught:
        getattr(module, operator)(**arguments)
    for key, (x, before) in written.items():
        assert torch.equal(x, before), key
    return caught.type, str(caught.value)


@pytest.mark.parametrize("operator,name", ALL, ids=[": ".join(each) for each in ALL])
def test_the_words_are_the_library_s(operator, name):
    assert failure(staged, operator, name) == failure(gdn.ops, operator, name)


# What the library has no words for: its kernels have no stages to steer.
OWN = {
    "force_kernel": ({"force_kernel": "avx2"}, 'force_kernel is "avx2", expected none'),
    "phase_b": ({"phase_b": "fast"}, "phase_b is 'fast'"),
    "solver": ({"solver": "qr"}, 'method is "qr", expected "exact" or "neumann"'),
    "iterations": ({"solver": "neumann", "iterations": 0}, "iterations is 0"),
    "longer": ({"max_length": 2}, "sequence 2 has 3 tokens, expected at most 2"),
}


@pytest.mark.parametrize("name", OWN)
def test_messages_of_its_own(name):
    changes, text = OWN[name]
    with pytest.raises(ValueError) as caught:
        call(**changes)
    assert text in str(caught.value)


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
    with pytest.raises(RuntimeError, match="gdn.recurrent_: a tensor requires a gradient"):
        staged.recurrent_(*x.tokens, x.state, state_layout="vk")
    with torch.no_grad():
        staged.recurrent_(*x.tokens, x.state, state_layout="vk")
