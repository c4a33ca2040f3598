"""The tests of the operators once more with every tensor on a GPU, and what is the GPU's own."""

import inputs
import pytest
import test_delta_rule
import test_functions
import torch
from gpu import DEVICE, needs_kernel, same_bits, tensors, to
from samples import SAMPLES
from tolerance import assert_close

import gdn

pytestmark = needs_kernel

# What is no matter of a device, or the CPU's alone.
_NOT_HERE = {
    "test_runs_every_kernel_by_name",
    "test_the_reference_stages_agree_with_each_other",
    "test_kernel_forces_the_reference",
    "test_python_m_gdn_prints_what_the_machine_has",
    "test_python_m_gdn_with_arguments",
    "test_has_kernel_takes_what_makes_a_device",
    "test_modules_are_reached_from_gdn_and_not_imported_with_it",
}
for _module in (test_delta_rule, test_functions):
    _tests = {name: f for name, f in vars(_module).items() if name.startswith("test_")}
    globals().update({name: f for name, f in _tests.items() if name not in _NOT_HERE})


@pytest.fixture(autouse=True)
def _tensors_are_made_there():
    with torch.device(DEVICE):
        yield


def run(sample, device, **more):
    """Results and arguments, those written among them, of a call on that device."""
    name, args, kwargs = SAMPLES[sample]
    args, kwargs = to(device, args), to(device, kwargs)
    results = getattr(torch.ops.gdn, name)(*args, **kwargs, **more)
    return list(tensors(results, args, kwargs))


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_operator_against_the_reference(sample):
    if SAMPLES[sample][2].get("beta_dtype"):
        pytest.skip("rounded twice; test_gating has the dtypes")
    got, wanted = run(sample, DEVICE), run(sample, "cpu", force_kernel="reference")
    if SAMPLES[sample][2].get("output_residual"):
        assert got[1].max() < 1e-5
        del got[1], wanted[1]
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert a.device.type == DEVICE and a.dtype == b.dtype
        if b.is_floating_point():
            assert_close(a.cpu(), b, f"tensor {i}", hard=sample.startswith("solve_tril"))
        else:
            assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_same_call_has_the_same_bits(sample):
    assert same_bits(run(sample, DEVICE), run(sample, DEVICE))


@pytest.mark.parametrize("operator", ["chunk", "recurrent"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["vk", "kv"])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("lengths", [None, [1, 63, 0, 64, 65, 200]], ids=["batch", "packed"])
def test_dimensions_of_real_layers(operator, dtype, layout, dim, lengths):
    """Those that tensor cores take, with a workspace from PyTorch."""
    call = inputs.delta_rule(
        T=150, H=2, HV=4, K=dim, V=dim, dtype=dtype, layout=layout, lengths=lengths
    )
    out, state = getattr(torch.ops.gdn, operator)(
        *call.tokens, call.state, output_final_state=True, **call.options
    )
    halves = operator == "chunk" and dtype != torch.float32
    how = dict(compute="bfloat16" if halves else "float32")
    wanted = call.reference()
    assert_close(out, wanted[0], "out", **how)
    assert_close(state, wanted[1], "state", state=True, **how)


def test_a_context_split_in_fixed_segments():
    """Asked for here, of the kernel that has one; a sequence's bits do not depend on its batch."""
    call = inputs.delta_rule(lengths=[700, 4500], K=64, V=64, dtype=torch.bfloat16)
    # So little decays and is written that a state is still felt a segment later.
    call.g *= 1e-3
    call.beta *= 0.02
    options = dict(output_final_state=True, state_layout="vk", use_qk_l2norm=True)
    alone = [x[:, 700:] for x in call.tokens]

    def run_both(context_split):
        how = options | dict(context_split=context_split)
        cu_seqlens = call.options["cu_seqlens"]
        packed = torch.ops.gdn.chunk(*call.tokens, call.state, cu_seqlens=cu_seqlens, **how)
        out, state = torch.ops.gdn.chunk(*alone, call.state[1:], **how)
        assert same_bits([packed[0][:, 700:], packed[1][1:]], [out, state])
        wanted = call.reference()
        assert_close(packed[0], wanted[0], "out", compute="bfloat16")
        assert_close(packed[1], wanted[1], "state", compute="bfloat16", state=True)
        return state

    splits = DEVICE == "cuda" and "sm90" in gdn.kernels()
    assert same_bits([run_both("fixed")], [run_both("off")]) == (not splits)


@pytest.mark.parametrize("kind", inputs.HARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("operator", ["chunk", "recurrent"])
def test_hard_inputs(kind, dtype, operator):
    with torch.device("cpu"):
        call = inputs.of_kind(kind=kind, dtype=dtype)
    call = to(DEVICE, call)
    out, state = getattr(torch.ops.gdn, operator)(
        *call.tokens, call.state, output_final_state=True, **call.options
    )
    halves = operator == "chunk" and dtype != torch.float32
    how = dict(compute="bfloat16" if halves else "float32", hard=True)
    wanted = call.reference()
    assert_close(out, wanted[0], "out", **how)
    assert_close(state, wanted[1], "state", state=True, **how)


def test_decode_on_a_pool_goes_on_from_a_prefill():
    """Steps of a server: two prefills, then steps in place, against the whole in one call."""
    call = inputs.delta_rule(B=2, T=90, K=64, V=64)
    pool = torch.zeros(6, *call.state.shape[1:])
    slots = torch.tensor([4, 1])
    pool[slots] = call.state
    outs = [
        gdn.ops.chunk_(
            *(x[:, :80] for x in call.tokens), pool, initial_state_indices=slots, **call.options
        )
    ]
    for t in range(80, 90):
        step = [x[:, t : t + 1] for x in call.tokens]
        outs.append(gdn.ops.recurrent_(*step, pool, initial_state_indices=slots, **call.options))
    wanted = call.reference()
    assert_close(torch.cat(outs, 1), wanted[0], "out", hard=True)
    assert_close(pool[slots], wanted[1], "states", hard=True)
    assert pool[[0, 2, 3, 5]].count_nonzero() == 0


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_slots_far_apart(index_dtype):
    """A pool whose slots lie among other data, as in a server's paged cache."""
    call = inputs.delta_rule(T=1, K=64, V=64)
    pages = torch.full((9, 5, *call.state.shape[1:]), float("nan"))
    pool, slots = pages[:, 3], torch.tensor([8, 2], dtype=index_dtype)
    pool[slots] = call.state
    out = gdn.ops.recurrent_(*call.tokens, pool, initial_state_indices=slots, **call.options)
    wanted = call.reference()
    assert_close(out, wanted[0], "out")
    assert_close(pool[slots], wanted[1], "states")
    assert pages.isnan().sum() == pages.numel() - call.state.numel()
