"""What PyTorch expects of an operator: schemas that are true, fake kernels, torch.compile,
torch.export."""

import pytest
import torch
import torch._dynamo.testing
from samples import SAMPLES, Layer, Packed, layer_inputs, packed_inputs

gdn_ops = torch.ops.gdn


def test_every_operator_has_a_sample():
    names = {
        name.removeprefix("gdn::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("gdn::")
    }
    others = {"info", "kernels", "last_status", "version", "reference_recurrent", "reference_chunk_stages"}
    assert {name for name in names if not name.startswith("_")} - others == {
        sample[0] for sample in SAMPLES.values()
    }


@pytest.mark.parametrize("sample", SAMPLES)
def test_opcheck(sample):
    name, args, kwargs = SAMPLES[sample]
    torch.library.opcheck(getattr(gdn_ops, name).default, args, kwargs)


@pytest.mark.parametrize(
    "sample", ["chunk packed", "recurrent to a state", "gating with b", "causal_conv1d packed"]
)
def test_the_meta_device_has_shapes(sample):
    name, args, kwargs = SAMPLES[sample]
    wanted = getattr(gdn_ops, name)(*args, **kwargs)

    def meta(x):
        return x.to("meta") if isinstance(x, torch.Tensor) else x

    got = getattr(gdn_ops, name)(
        *map(meta, args), **{key: meta(value) for key, value in kwargs.items()}
    )
    assert [(x.shape, x.dtype, x.device.type) for x in got] == [
        (x.shape, x.dtype, "meta") for x in wanted
    ]


def same(got, wanted):
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_whole_with_dynamic_shapes(backend):
    layer = Layer()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for B, T in ((3, 7), (4, 70), (5, 130)):  # equal sizes at first would be taken for one size
        x, a, pool, slots = layer_inputs(B, T)
        pools = pool.clone(), pool.clone()
        got = compiled(x, a, pools[0], slots)
        wanted = layer(x, a, pools[1], slots)
        assert same((*got, pools[0]), (*wanted, pools[1]))
        assert not torch.equal(pools[0], pool)
        counts.append(counter.frame_count)
    assert len(set(counts)) == 1, f"compiled again for another shape: {counts}"


def test_exports_with_dynamic_shapes():
    layer = Layer()
    B, T = torch.export.Dim("B", min=2, max=64), torch.export.Dim("T", min=2, max=4096)
    program = torch.export.export(
        layer,
        layer_inputs(3, 20),
        dynamic_shapes=({0: B, 1: T}, {0: B, 1: T}, {}, {0: B}),
        strict=False,
    )
    module = program.module()
    x, a, pool, slots = layer_inputs(4, 75)
    pools = pool.clone(), pool.clone()
    got, wanted = module(x, a, pools[0], slots), layer(x, a, pools[1], slots)
    assert same((*got, pools[0]), (*wanted, pools[1]))


def packed_exported():
    T, P = torch.export.Dim("T", min=2, max=4096), torch.export.Dim("P", min=3, max=65)
    dynamic = (*[{1: T}] * 5, {0: P}, {}, {0: P - 1})
    return torch.export.export(
        Packed(), packed_inputs(5, 7, 3), dynamic_shapes=dynamic, strict=False
    ).module()


# Not inductor with dynamic shapes: it writes to the start of the tensor of which a view with an
# offset is written (pytorch/pytorch#198068).
@pytest.mark.parametrize(
    "make",
    [
        packed_exported,
        lambda: torch.compile(Packed(), fullgraph=True, dynamic=True, backend="aot_eager"),
        lambda: torch.compile(Packed(), fullgraph=True, dynamic=False),
    ],
    ids=["export", "aot_eager", "inductor"],
)
def test_any_number_of_sequences_on_views_of_a_pool(make):
    graph = make()
    for lengths in ((5, 7, 3), (30, 1, 0, 70)):
        arguments = packed_inputs(*lengths)
        copies = [x.clone() for x in arguments]
        got, wanted = graph(*arguments), Packed()(*copies)
        assert same((*got[:-1], arguments[6]), (*wanted[:-1], copies[6]))
        torch.testing.assert_close(got[-1], wanted[-1], rtol=1e-3, atol=1e-2)
