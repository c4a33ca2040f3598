"""What PyTorch expects of an operator: schemas that are true, fake kernels, torch.compile,
torch.export."""

import inputs
import pytest
import torch
import torch._dynamo.testing

import gdn

gdn_ops = torch.ops.gdn


def samples():
    """name: (operator, arguments, keywords), of every operator and every kind of optional
    argument."""
    torch.manual_seed(0)
    call = inputs.delta_rule(T=7)
    packed = inputs.delta_rule(lengths=[3, 0, 66], layout="kv")
    gates = dict(
        A_log=torch.randn(4), a=torch.randn(2, 7, 4), dt_bias=torch.randn(4), b=torch.randn(2, 7, 4)
    )
    pool = torch.randn(6, *call.state.shape[1:])
    slots = torch.tensor([4, 2])
    records = torch.zeros(6, 8, 2, 32), torch.zeros(6, 8, 4, 48), torch.zeros(6, 8, 4)
    accepted = torch.tensor([0, 3])
    x, weight = torch.randn(2, 7, 12), torch.randn(12, 4)
    tokens = call.tokens
    for name in ("chunk", "recurrent"):
        yield name, name, tokens, call.options
        final = dict(output_final_state=True)
        yield f"{name} to a state", name, (*tokens, call.state), final | call.options
        yield f"{name} packed", name, (*packed.tokens, packed.state), final | packed.options
        yield (
            f"{name} with gates",
            name,
            (*tokens[:3], None, None, pool),
            final
            | gates
            | call.options
            | dict(
                initial_state_indices=slots,
                null_slot=0,
                has_initial_state=torch.tensor([True, False]),
            ),
        )
        yield (
            f"{name}_",
            f"{name}_",
            (*tokens, pool),
            dict(initial_state_indices=slots) | call.options,
        )
        several = dict(
            initial_state_indices=torch.tensor([[1, 2, 3, 3, 3, 3, 3]] * 2) * -1, num_accepted=slots
        )
        yield f"{name}_ with a state a token", f"{name}_", (*tokens, pool), several | call.options
    checkpoints = dict(
        checkpoint_every=64,
        checkpoints=torch.zeros(1, 4, 32, 48),
        checkpoint_cu=torch.tensor([0, 0, 0, 1]),
    )
    yield (
        "chunk_ with checkpoints",
        "chunk_",
        (*packed.tokens, packed.state),
        checkpoints | packed.options,
    )
    yield (
        "replay_verify_",
        "replay_verify_",
        (*tokens, pool, accepted, *records),
        dict(state_indices=slots) | call.options,
    )
    yield (
        "replay_commit_",
        "replay_commit_",
        (pool, accepted, *records),
        dict(state_layout="vk", state_indices=slots),
    )
    yield "gating", "gating", (gates["a"], gates["A_log"]), {}
    yield (
        "gating with b",
        "gating",
        (gates["a"], gates["A_log"], gates["dt_bias"], gates["b"]),
        dict(beta_dtype=torch.bfloat16),
    )
    yield "l2norm", "l2norm", (x,), {}
    yield "rms_norm_gated", "rms_norm_gated", (x, x + 1, torch.randn(12)), {}
    yield "causal_conv1d", "causal_conv1d", (x, weight), dict(output_final_state=True, silu=True)
    yield (
        "causal_conv1d packed",
        "causal_conv1d",
        (x[:1], weight, weight[:, 0], torch.randn(2, 12, 5)),
        dict(output_final_state=True, cu_seqlens=torch.tensor([0, 3, 7])),
    )
    yield (
        "causal_conv1d_",
        "causal_conv1d_",
        (x, weight, None, torch.randn(6, 12, 3)),
        dict(initial_state_indices=slots),
    )
    yield "solve_tril", "solve_tril", (torch.randn(2, 8, 8),), {}
    yield (
        "solve_tril with a residual",
        "solve_tril",
        (torch.randn(2, 3, 8, 8),),
        dict(output_residual=True),
    )


SAMPLES = {name: sample for name, *sample in samples()}


def test_every_operator_has_a_sample():
    names = {
        name.removeprefix("gdn::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("gdn::")
    }
    others = {"info", "kernels", "last_status", "reference_recurrent", "reference_chunk_stages"}
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


class Layer(torch.nn.Module):
    """The operators of a layer, one after the other: prefill to a state, then decode in place."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(24, 4), requires_grad=False)
        self.norm = torch.nn.Parameter(torch.randn(8), requires_grad=False)
        self.A_log = torch.nn.Parameter(torch.randn(2), requires_grad=False)

    def forward(self, x, a, pool, slots):
        B, T = x.shape[:2]
        x = gdn.causal_conv1d_fn(x.transpose(1, 2), self.weight, activation="silu").transpose(1, 2)
        q, k, v = (y.unflatten(-1, (-1, 8)) for y in x.split([8, 0 + 8, 8], dim=-1))
        v = v.repeat(1, 1, 2, 1)
        out, state = gdn.chunk_gated_delta_rule(
            q,
            k,
            v,
            a,
            a,
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
            use_gate_in_kernel=True,
            A_log=self.A_log,
            use_beta_sigmoid_in_kernel=True,
        )
        decoded = gdn.ops.recurrent_(
            q[:, -1:],
            k[:, -1:],
            v[:, -1:],
            -a[:, -1:].exp(),
            None,
            pool,
            state_layout="kv",
            initial_state_indices=slots,
        )
        return gdn.rms_norm_gated(gdn.l2norm(out), out, self.norm), state, decoded


def layer_inputs(B, T):
    return (
        torch.randn(B, T, 24),
        torch.randn(B, T, 2),
        torch.randn(9, 2, 8, 8),
        torch.randperm(9)[:B],
    )


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


class Packed(torch.nn.Module):
    """Sequences of any number and lengths, on two pools whose slots lie side by side in one
    tensor: views of an argument are read, written, and written again."""

    def forward(self, q, k, v, g, beta, cu_seqlens, pools, slots):
        tokens = (q, k, v, g, beta)
        options = dict(state_layout="vk", cu_seqlens=cu_seqlens, initial_state_indices=slots)
        first = pools[:, 0]
        out, state = gdn.ops.chunk(
            *tokens, first, output_final_state=True, use_qk_l2norm=True, **options
        )
        return (
            out,
            state,
            gdn.ops.chunk_(*tokens, first, **options),
            gdn.ops.recurrent_(*tokens, pools[:, 1], **options),
            gdn.ops.chunk_(*tokens, first, **options),
            pools.sum(),
        )


def packed_inputs(*lengths):
    call = inputs.delta_rule(lengths=list(lengths))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    pools = torch.randn(9, 2, *call.state.shape[1:])
    return (*call.tokens, cu_seqlens, pools, torch.randperm(9)[: len(lengths)])


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
