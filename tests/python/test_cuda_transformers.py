"""gdn in Hugging Face's models on a GPU: logits and text of transformers' own code there."""

import pytest
import torch

pytest.importorskip("kernels", reason="the extra gdn[transformers] is not installed")
import models  # noqa: E402
from gpu import DEVICE, needs_gpu, needs_kernel  # noqa: E402

import gdn  # noqa: E402
import gdn.staged  # noqa: E402
from gdn.integrations.transformers import disable, enable  # noqa: E402

pytestmark = needs_kernel

LOGITS = 1e-4  # as in test_transformers.py
KINDS = {"qwen35": models.qwen35, "qwen35_moe": models.qwen35_moe, "qwen3_next": models.qwen3_next}


@pytest.fixture(autouse=True)
def _float32_products():
    """transformers' own convolution is cuDNN's, which rounds to tf32 unless told otherwise."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(params=KINDS)
def model(request, monkeypatch):
    for name in ("chunk", "recurrent", "causal_conv1d", "causal_conv1d_", "rms_norm_gated"):
        monkeypatch.setattr(gdn.staged, name, None)  # which would be called in place of a kernel
    model = KINDS[request.param]().to(DEVICE)
    yield model
    disable(model)


def ids_for(model, *shape):
    return torch.randint(1, model.config.vocab_size, shape).to(DEVICE)


@torch.no_grad()
def logits(model, ids, **kwargs):
    return model(ids, **kwargs).logits


def difference(a, b):
    return (a - b).abs().max().item()


def count_calls(monkeypatch):
    calls = []

    def counted(name, run):
        return lambda *args, **kwargs: (calls.append(name), run(*args, **kwargs))[1]

    for name in ("chunk", "recurrent", "causal_conv1d", "causal_conv1d_", "rms_norm_gated"):
        monkeypatch.setattr(gdn.ops, name, counted(name, getattr(gdn.ops, name)))
    return calls


@pytest.mark.parametrize("tokens", [1, 65, 300])
def test_logits_are_those_of_transformers(model, tokens, monkeypatch):
    ids = ids_for(model, 2, tokens)
    stock = logits(model, ids)
    calls = count_calls(monkeypatch)
    enable(model)
    ours = logits(model, ids)
    assert {"chunk", "causal_conv1d", "rms_norm_gated"} <= set(calls)
    assert difference(ours, stock) < LOGITS


def test_prefill_and_decode_continue_from_a_cache(model, monkeypatch):
    ids = ids_for(model, 2, 80)
    stock = logits(model, ids)
    calls = count_calls(monkeypatch)
    enable(model)
    cache, parts = None, []
    with torch.no_grad():
        for begin, end in ((0, 70), (70, 77), (77, 78), (78, 79), (79, 80)):
            out = model(ids[:, begin:end], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
    assert {"chunk", "recurrent", "causal_conv1d_"} <= set(calls)
    assert difference(torch.cat(parts, 1), stock) < LOGITS


def test_greedy_text_is_that_of_transformers(model):
    ids = ids_for(model, 1, 20)
    how = dict(max_new_tokens=30, do_sample=False)
    stock = model.generate(ids, **how)
    enable(model)
    assert torch.equal(model.generate(ids, **how), stock)


def test_bfloat16_is_as_exact_as_in_transformers(model):
    ids = ids_for(model, 2, 200)
    right = logits(model, ids)
    model.to(torch.bfloat16)

    def error(got):
        return ((got.float() - right).norm() / right.norm()).item()

    stock = error(logits(model, ids))
    enable(model)
    # Of a model without meaning the errors are chaotic; the layers' own are in the other tests.
    assert error(logits(model, ids)) <= 1.3 * stock


def test_packed_sequences_are_kept_apart(model):
    lengths = [40, 1, 90]
    ids = ids_for(model, 1, sum(lengths))
    enable(model)
    pack = dict(
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None].to(DEVICE),
        cu_seq_lens_q=torch.tensor([0, 40, 41, 131], dtype=torch.int32, device=DEVICE),
    )
    packed = logits(model, ids, use_cache=False, **pack)
    alone = [logits(model, row) for row in ids.split(lengths, dim=1)]
    assert difference(packed, torch.cat(alone, 1)) < LOGITS


def test_compiled(model):
    ids = ids_for(model, 1, 70)
    stock = logits(model, ids, use_cache=False)
    enable(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert difference(logits(compiled, ids, use_cache=False), stock) < LOGITS


@needs_gpu
@pytest.mark.parametrize("model", ["qwen35"], indirect=True)
def test_a_prefill_replays_from_a_graph(model):
    """gdn takes nothing away that transformers' own code can do. Last: an error while a graph is
    captured may reach what comes after it."""
    ids = ids_for(model, 1, 64)

    def captured():
        wanted = logits(model, ids, use_cache=False)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = logits(model, ids, use_cache=False)
        graph.replay()
        torch.cuda.synchronize()
        return got, wanted

    try:
        captured()
    except RuntimeError as error:
        pytest.skip(f"transformers' own code cannot be captured: {error}")
    enable(model)
    got, wanted = captured()
    assert difference(got, wanted) < LOGITS
