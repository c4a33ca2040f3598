"""Streams, graphs and memory of a GPU: a call is work on PyTorch's current stream, and no more."""

import inputs
import pytest
import torch
from gpu import needs_gpu, same_bits, tensors, to
from samples import SAMPLES

import gdn

pytestmark = needs_gpu

# And some with a workspace: bfloat16, K and V of 64.
_prefill = inputs.delta_rule(T=200, K=64, V=64, dtype=torch.bfloat16)
_packed = inputs.delta_rule(lengths=[100, 0, 65], K=64, V=64, dtype=torch.bfloat16)
CALLS = SAMPLES | {
    "chunk on tensor cores": (
        "chunk",
        (*_prefill.tokens, _prefill.state),
        dict(output_final_state=True) | _prefill.options,
    ),
    "chunk_ on tensor cores, packed": (
        "chunk_",
        (*_packed.tokens, torch.randn(8, *_packed.state.shape[1:])),
        dict(initial_state_indices=torch.tensor([7, -1, 2])) | _packed.options,
    ),
}


class Call:
    """A call and its tensors on the GPU; run() gives results and what the call has written."""

    def __init__(self, name):
        operator, args, kwargs = CALLS[name]
        self.operator = getattr(torch.ops.gdn, operator)
        self.args, self.kwargs = to("cuda", args), to("cuda", kwargs)

    def run(self):
        results = self.operator(*self.args, **self.kwargs)
        return list(tensors(results, self.args, self.kwargs))

    def restore(self, other):
        for x, y in zip(
            tensors(self.args, self.kwargs), tensors(other.args, other.kwargs), strict=True
        ):
            x.copy_(y)


def eager(name):
    results = Call(name).run()
    torch.cuda.synchronize()
    return results


@pytest.mark.parametrize("name", CALLS)
def test_runs_on_the_current_stream(name):
    """The inputs are written on a side stream behind work that takes long: on another stream the
    call would find what was there before."""
    call, values = Call(name), Call(name)
    for x in tensors(call.args, call.kwargs):
        if x.is_floating_point():
            x.fill_(float("nan"))
    wanted = eager(name)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # tens of milliseconds
        call.restore(values)
        got = call.run()
    stream.synchronize()
    assert same_bits(got, wanted)


@pytest.mark.parametrize("name", CALLS)
def test_does_not_wait_for_the_device(name):
    call = Call(name)
    eager(name)  # what is done once
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda._sleep(400_000_000)  # about 200 milliseconds
    results = call.run()
    done.record()
    assert not done.query(), "the call has waited for the work before it"
    torch.cuda.synchronize()
    assert results


@pytest.mark.parametrize("name", CALLS)
def test_replays_from_a_graph_to_the_same_bits(name):
    wanted = eager(name)
    call, values = Call(name), Call(name)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = call.run()
    for _ in range(2):
        for x in got:
            if x.is_floating_point():
                x.fill_(float("nan"))
        call.restore(values)
        graph.replay()
        torch.cuda.synchronize()
        assert same_bits(got, wanted)


def test_a_graph_reads_lengths_and_slots_when_it_is_replayed():
    """A captured decode step and a captured prefill serve other sequences by their indices."""
    call = to("cuda", inputs.delta_rule(lengths=[40, 60, 28], K=64, V=64))
    pool = torch.randn(9, *call.state.shape[1:], device="cuda")
    slots, cu = torch.tensor([1, 2, 3], device="cuda"), call.options["cu_seqlens"]

    def step():
        return gdn.ops.chunk_(*call.tokens, pool, initial_state_indices=slots, **call.options)

    kept = pool.clone()
    step()
    pool.copy_(kept)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    for lengths, named in (([40, 60, 28], [1, 2, 3]), ([1, 0, 127], [8, -1, 5])):
        cu.copy_(torch.tensor([0, *lengths]).cumsum(0))
        slots.copy_(torch.tensor(named))
        pool.copy_(kept)
        graph.replay()
        got = out.clone(), pool.clone()
        pool.copy_(kept)
        assert same_bits(got, (step(), pool))


def test_a_step_of_several_operators_in_one_graph():
    """Their results and workspaces come from the graph's memory, one after the other."""
    call = to("cuda", inputs.delta_rule(T=128, K=64, V=64, dtype=torch.bfloat16))
    z, weight = torch.randn_like(call.v), torch.ones(64, device="cuda")

    def layer():
        out, state = gdn.ops.chunk(
            *call.tokens, call.state, output_final_state=True, **call.options
        )
        again, last = gdn.ops.chunk(*call.tokens, state, output_final_state=True, **call.options)
        return gdn.rms_norm_gated(out + again, z, weight), last

    wanted = layer()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = layer()
    graph.replay()
    torch.cuda.synchronize()
    assert same_bits(got, wanted)


def test_takes_no_memory_but_its_results():
    call = Call("chunk on tensor cores")
    call.run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        call.run()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_runs_where_its_tensors_are():
    operator, args, kwargs = CALLS["chunk on tensor cores"]
    wanted = eager("chunk on tensor cores")
    with torch.cuda.device(0):
        results = getattr(torch.ops.gdn, operator)(*to("cuda:1", args), **to("cuda:1", kwargs))
        assert torch.cuda.current_device() == 0
    assert all(x.device.index == 1 for x in results)
    assert same_bits(to("cuda:0", list(results)), wanted[: len(results)])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_tensors_on_two_gpus_are_refused():
    x = torch.randn(3, 8, device="cuda:0")
    message = "gdn.rms_norm_gated: tensors are on cuda:0 and cuda:1, expected one device"
    with pytest.raises(ValueError, match=message):
        gdn.ops.rms_norm_gated(x, x.to("cuda:1"), torch.ones(8, device="cuda:0"))
