"""What PyTorch expects of an operator on a GPU: opcheck, torch.compile, CUDA graphs through it."""

import importlib.util

import inputs
import pytest
import torch
from gpu import DEVICE, needs_gpu, needs_kernel, to
from samples import SAMPLES, Layer, Packed, layer_inputs, packed_inputs

import gdn

needs_triton = pytest.mark.skipif(
    DEVICE == "cuda" and importlib.util.find_spec("triton") is None, reason="triton is missing"
)
pytestmark = needs_kernel

BACKENDS = ["aot_eager", pytest.param("inductor", marks=needs_triton)]


@pytest.fixture(autouse=True)
def _compiled_afresh():
    torch._dynamo.reset()


def close(got, wanted):
    return all(
        torch.allclose(a.float(), b.float(), atol=1e-5, rtol=1e-5)
        for a, b in zip(got, wanted, strict=True)
    )


@pytest.mark.parametrize("sample", SAMPLES)
def test_opcheck(sample):
    name, args, kwargs = SAMPLES[sample]
    operator = getattr(torch.ops.gdn, name).default
    torch.library.opcheck(operator, to(DEVICE, args), to(DEVICE, kwargs))


def function(name):
    """A prefill or a decode step of one operator alone, with its pool."""

    def call(q, k, v, g, beta, pool, slots):
        options = dict(state_layout="vk", use_qk_l2norm=True, initial_state_indices=slots)
        tokens = (q, k, v, g, beta)
        out, state = getattr(gdn.ops, name)(*tokens, pool, output_final_state=True, **options)
        return out, state, getattr(gdn.ops, name + "_")(*tokens, pool, **options)

    return call


def arguments(T, dtype=torch.float32):
    call = inputs.delta_rule(T=T, K=64, V=64, dtype=dtype)
    pool = torch.randn(9, *call.state.shape[1:])
    return to(DEVICE, (*call.tokens, pool, torch.tensor([7, 2])))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name, T", [("chunk", 100), ("recurrent", 1), ("recurrent", 3)])
def test_an_operator_compiles_whole(name, T, dtype, backend):
    call = function(name)
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    given = arguments(T, dtype)
    copies = to(DEVICE, given)
    got, wanted = compiled(*given), call(*copies)
    assert close(got, wanted) and torch.equal(given[5], copies[5])


@pytest.mark.parametrize("name, T", [("chunk", 100), ("recurrent", 1)])
@needs_gpu
@needs_triton
def test_an_operator_in_the_graphs_of_inductor(name, T):
    """mode="reduce-overhead" captures what it compiles."""

    def functional(q, k, v, g, beta, state):
        options = dict(state_layout="vk", use_qk_l2norm=True, output_final_state=True)
        out, state = getattr(gdn.ops, name)(q, k, v, g, beta, state, **options)
        return out * 2, state + 1

    compiled = torch.compile(functional, fullgraph=True, mode="reduce-overhead")
    for seed in range(4):  # run, warm up, capture, replay
        torch.manual_seed(seed)
        call = to("cuda", inputs.delta_rule(T=T, K=64, V=64, dtype=torch.bfloat16))
        torch.compiler.cudagraph_mark_step_begin()
        got = compiled(*call.tokens, call.state)
        assert close(got, functional(*call.tokens, call.state))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_layer_compiles_whole_with_dynamic_shapes(backend):
    layer = Layer().to(DEVICE)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for B, T in ((3, 7), (4, 70), (5, 130)):
        x, a, pool, slots = to(DEVICE, layer_inputs(B, T))
        pools = pool.clone(), pool.clone()
        got, wanted = compiled(x, a, pools[0], slots), layer(x, a, pools[1], slots)
        assert close((*got, pools[0]), (*wanted, pools[1]))
        assert not torch.equal(pools[0], pool)


@pytest.mark.parametrize(
    "backend, dynamic",
    [("aot_eager", True), pytest.param("inductor", False, marks=needs_triton)],
)
def test_packs_on_views_of_a_pool(backend, dynamic):
    compiled = torch.compile(Packed(), fullgraph=True, dynamic=dynamic, backend=backend)
    for lengths in ((5, 7, 3), (30, 1, 0, 70)):
        given = to(DEVICE, packed_inputs(*lengths))
        copies = to(DEVICE, given)
        got, wanted = compiled(*given), Packed()(*copies)
        assert close((*got[:-1], given[6]), (*wanted[:-1], copies[6]))


def test_exports():
    layer = Layer().to(DEVICE)
    B, T = torch.export.Dim("B", min=2, max=64), torch.export.Dim("T", min=2, max=4096)
    program = torch.export.export(
        layer,
        to(DEVICE, layer_inputs(3, 20)),
        dynamic_shapes=({0: B, 1: T}, {0: B, 1: T}, {}, {0: B}),
        strict=False,
    )
    x, a, pool, slots = to(DEVICE, layer_inputs(4, 75))
    pools = pool.clone(), pool.clone()
    got, wanted = program.module()(x, a, pools[0], slots), layer(x, a, pools[1], slots)
    assert close((*got, pools[0]), (*wanted, pools[1]))
