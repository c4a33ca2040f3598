"""gdn in Hugging Face's models: logits and text of transformers' own code, without a network."""

import copy
import socket
import sys
import threading

import pytest
import torch

pytest.importorskip("kernels", reason="the extra gdn[transformers] is not installed")
import models  # noqa: E402
from transformers import TextIteratorStreamer  # noqa: E402

import gdn  # noqa: E402
import gdn.staged  # noqa: E402
from gdn import _dispatch  # noqa: E402
from gdn.integrations.transformers import disable, enable  # noqa: E402

LOGITS = 1e-4  # of the order of 10
BF16_FACTOR = 1.1  # to the error of transformers' own bfloat16, which rounds in other places

KINDS = {
    "shipped": models.shipped,
    "qwen35": models.qwen35,
    "qwen35_moe": models.qwen35_moe,
    "qwen3_next": models.qwen3_next,
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args):
        raise AssertionError("a test opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def _nothing_stays_enabled():
    yield
    assert not _functions_are_replaced(models.qwen35())


def _functions_are_replaced(model):
    layer = _layers(model)[0]
    return any(
        type(f).forward is not f.forward.__func__
        for f in layer._kernel_funcs.values()
        if "forward" in vars(f)
    )


def _layers(model):
    return [m for m in model.modules() if type(m).__name__.endswith("GatedDeltaNet")]


@pytest.fixture(params=KINDS)
def model(request):
    model = KINDS[request.param]()
    yield model
    disable(model)


@pytest.fixture
def shipped():
    model = models.shipped()
    yield model
    disable(model)


def _ids(model, *shape):
    return torch.randint(1, min(model.config.vocab_size, 256), shape)


@torch.no_grad()
def _logits(model, ids, **kwargs):
    return model(ids, **kwargs).logits


def _runs_gdn(call):
    """Whether call() comes to an operator of gdn: there, a kernel of no name is an error."""
    try:
        _dispatch._forced_kernel = "none"  # which gdn.kernel() would refuse
        call()
    except RuntimeError as error:  # NotImplementedError but for compiled code
        assert 'kernel "none" is not in this build' in str(error)
        return True
    finally:
        _dispatch._forced_kernel = None
    return False


def _difference(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("tokens", [1, 2, 3, 64, 65, 300])
def test_logits_are_those_of_transformers(model, tokens):
    ids = _ids(model, 2, tokens)
    stock = _logits(model, ids)
    enable(model)
    assert _runs_gdn(lambda: _logits(model, ids))
    assert _difference(_logits(model, ids), stock) < LOGITS


@pytest.mark.parametrize(
    "part", ["chunk", "recurrent", "causal_conv1d", "causal_conv1d_", "rms_norm_gated"]
)
def test_every_part_of_a_layer_is_replaced(model, part, monkeypatch):
    """A prefill and a decode step come to each operator in every layer."""
    calls = []
    run = getattr(gdn.ops, part)
    monkeypatch.setattr(
        gdn.ops, part, lambda *args, **kwargs: (calls.append(1), run(*args, **kwargs))[1]
    )
    enable(model)
    with torch.no_grad():
        cache = model(_ids(model, 1, 10), use_cache=True).past_key_values
        model(_ids(model, 1, 1), past_key_values=cache)
    assert len(calls) == len(_layers(model)) * (2 if part == "rms_norm_gated" else 1)


def test_greedy_text_is_that_of_transformers(shipped):
    tokenizer = models.shipped_tokenizer()
    ids = tokenizer("And it came to pass", return_tensors="pt").input_ids
    stock = shipped.generate(ids, max_new_tokens=120, do_sample=False)
    enable(shipped)
    ours = shipped.generate(ids, max_new_tokens=120, do_sample=False)
    assert tokenizer.decode(ours[0]) == tokenizer.decode(stock[0])
    assert tokenizer.decode(ours[0]).startswith(
        "And it came to pass, that the king of Israel went out to meet him, and said"
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches(model, side):
    """Rows of a padded batch have the logits of transformers, and those of the row alone."""
    lengths, longest = [70, 1, 33], 70
    ids, mask = _ids(model, 3, longest), torch.zeros(3, longest, dtype=torch.int64)
    tokens = [slice(longest - n, longest) if side == "left" else slice(0, n) for n in lengths]
    for row, where in enumerate(tokens):
        mask[row, where] = 1
    stock = _logits(model, ids, attention_mask=mask)
    enable(model)
    ours = _logits(model, ids, attention_mask=mask)
    for row, where in enumerate(tokens):
        assert _difference(ours[row, where], stock[row, where]) < LOGITS
        assert _difference(ours[row, where], _logits(model, ids[row : row + 1, where])[0]) < LOGITS


def test_padded_batches_write_the_text_of_transformers(shipped):
    tokenizer = models.shipped_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    batch = tokenizer(
        ["And it came to pass", "Mrs. Bennet", "It is a truth universally "],
        return_tensors="pt",
        padding=True,
    )
    how = dict(max_new_tokens=40, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    stock = shipped.generate(**batch, **how)
    enable(shipped)
    assert torch.equal(shipped.generate(**batch, **how), stock)


@pytest.mark.parametrize("cuts", [(1, 2, 3), (64, 128), (70, 71, 72, 200)], ids=str)
def test_prefill_and_decode_continue_from_a_cache(model, cuts):
    ids = _ids(model, 2, 210)
    stock = _logits(model, ids)
    enable(model)
    cache, parts = None, []
    with torch.no_grad():
        for begin, end in zip((0, *cuts), (*cuts, 210)):
            out = model(ids[:, begin:end], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
    assert _difference(torch.cat(parts, 1), stock) < LOGITS


def test_a_cache_goes_on_in_the_other_code(shipped):
    """A prompt prefilled by transformers' code is continued by ours, and the other way round."""
    ids = _ids(shipped, 1, 130)
    stock = _logits(shipped, ids)
    for first, then in ((disable, enable), (enable, disable)):
        with torch.no_grad():
            first(shipped)
            begun = shipped(ids[:, :100], use_cache=True)
            then(shipped)
            rest = shipped(ids[:, 100:], past_key_values=begun.past_key_values).logits
        assert _difference(rest, stock[:, 100:]) < LOGITS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_models_are_as_exact_as_in_transformers(dtype):
    exact, model = models.shipped(), models.shipped(dtype)
    tokenizer = models.shipped_tokenizer()
    ids = tokenizer(
        "And Mrs. Bennet said unto the king of Israel, It is a truth. " * 8, return_tensors="pt"
    ).input_ids
    right = _logits(exact, ids)

    def error(logits):
        return ((logits.float() - right).norm() / right.norm()).item()

    stock = _logits(model, ids)
    enable(model)
    ours = _logits(model, ids)
    assert ours.dtype == dtype and _runs_gdn(lambda: _logits(model, ids))
    assert error(ours) <= BF16_FACTOR * error(stock)
    with torch.no_grad():
        begun = model(ids[:, :-40], use_cache=True)
        steps = [begun.logits]
        for t in range(ids.shape[1] - 40, ids.shape[1]):
            steps.append(model(ids[:, t : t + 1], past_key_values=begun.past_key_values).logits)
    assert error(torch.cat(steps, 1)) <= BF16_FACTOR * error(stock)
    disable(model)


def test_autocast(shipped):
    ids = _ids(shipped, 1, 100)
    with torch.autocast("cpu", torch.bfloat16):
        stock = _logits(shipped, ids).float()
        enable(shipped)
        ours = _logits(shipped, ids).float()
    assert (ours - stock).norm() < 0.02 * stock.norm()


def test_packed_sequences_are_kept_apart(shipped):
    lengths = [40, 1, 90]
    ids = _ids(shipped, 1, sum(lengths))
    enable(shipped)
    pack = dict(
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        cu_seq_lens_q=torch.tensor([0, 40, 41, 131], dtype=torch.int32),
    )
    packed = _logits(shipped, ids, use_cache=False, **pack)
    alone = [_logits(shipped, row) for row in ids.split(lengths, dim=1)]
    assert _difference(packed, torch.cat(alone, 1)) < LOGITS
    with torch.no_grad():
        cache = shipped(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="use_cache=False"):
        _logits(shipped, ids, past_key_values=cache, **pack)


def test_enabling_twice_and_disabling(model):
    ids = _ids(model, 1, 70)
    stock = _logits(model, ids)
    assert enable(model) is model
    once = _logits(model, ids)
    enable(model)
    assert torch.equal(_logits(model, ids), once)
    assert len(_layers(model)[0]._forward_hooks) == 1
    assert disable(model) is model
    assert torch.equal(_logits(model, ids), stock)
    assert not _runs_gdn(lambda: _logits(model, ids))
    assert not _layers(model)[0]._forward_hooks and not _layers(model)[0]._forward_pre_hooks
    disable(model)
    assert torch.equal(_logits(model, ids), stock)


def test_other_models_of_the_kind_are_as_they_were():
    ours, other = models.qwen35(), models.qwen35()
    ids = _ids(ours, 1, 70)
    enable(ours)
    assert _runs_gdn(lambda: _logits(ours, ids)) and not _runs_gdn(lambda: _logits(other, ids))
    # After an error in the middle of a layer too, which is what _runs_gdn makes.
    enable(other)
    disable(ours)
    assert _runs_gdn(lambda: _logits(other, ids)) and not _runs_gdn(lambda: _logits(ours, ids))
    disable(other)


def test_other_models_in_other_threads_are_as_they_were():
    ours, other = models.qwen35(), models.qwen35()
    ids = _ids(ours, 1, 200)
    stock = _logits(other, ids)
    enable(ours)
    stop, found = threading.Event(), []

    def run():
        while not stop.is_set():
            _logits(ours, ids)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(5):
        found.append(torch.equal(_logits(other, ids), stock))
    stop.set()
    thread.join()
    disable(ours)
    assert all(found)


def test_a_copy_can_be_enabled_and_disabled(shipped):
    ids = _ids(shipped, 1, 20)
    enable(shipped)
    copied = enable(copy.deepcopy(shipped))
    disable(shipped)
    assert _runs_gdn(lambda: _logits(copied, ids)) and not _runs_gdn(lambda: _logits(shipped, ids))
    disable(copied)
    assert not _runs_gdn(lambda: _logits(copied, ids))


def test_training_runs_the_code_of_transformers(model):
    ids = _ids(model, 1, 40)

    def gradients():
        model.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    model.train()
    stock = gradients()
    enable(model)
    assert not _runs_gdn(gradients)
    assert all(map(torch.equal, gradients(), stock))
    with torch.no_grad():
        assert not _runs_gdn(lambda: model(ids))
    model.eval()
    assert _runs_gdn(lambda: _logits(model, ids))


@pytest.mark.filterwarnings("ignore:.*gradients are wanted")
def test_gradients_in_evaluation_are_those_of_transformers(shipped):
    ids = _ids(shipped, 1, 40)

    def gradient():
        embedded = shipped.get_input_embeddings()(ids).detach().requires_grad_()
        shipped(inputs_embeds=embedded).logits.sum().backward()
        return embedded.grad

    stock = gradient()
    enable(shipped)
    assert torch.equal(gradient(), stock)
    with pytest.warns(UserWarning, match="torch.no_grad"):
        shipped(ids)


def test_compiled(shipped):
    ids = _ids(shipped, 1, 70)
    stock = _logits(shipped, ids, use_cache=False)
    enable(shipped)
    compiled = torch.compile(shipped, backend="eager", fullgraph=True)
    assert _difference(_logits(compiled, ids, use_cache=False), stock) < LOGITS
    assert _runs_gdn(lambda: _logits(compiled, _ids(shipped, 1, 5), use_cache=False))


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_exported_for_any_length(shipped):
    """transformers' own code exports for one length alone."""

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = shipped

        def forward(self, ids):
            return self.model(ids, use_cache=False).logits

    lengths = ({1: torch.export.Dim("tokens", min=2, max=1000)},)
    ids = _ids(shipped, 1, 201)
    stock = _logits(shipped, ids)
    enable(shipped)
    with torch.no_grad():
        exported = torch.export.export(
            Logits(), (ids[:, :70],), dynamic_shapes=lengths, strict=True
        )
        assert _difference(exported.module()(ids), stock) < LOGITS
    assert any("gdn.chunk" in str(node.target) for node in exported.graph.nodes)


def test_on_the_meta_device():
    """Any device takes the same way: the functions go where their tensors are."""
    model = enable(models.qwen35().to("meta"))
    assert _logits(model, torch.zeros(2, 70, dtype=torch.int64, device="meta")).shape == (
        2,
        70,
        101,
    )
    disable(model)


def test_on_a_device_without_a_kernel(model, monkeypatch):
    """There the pipeline of tensor operations runs."""
    ids = _ids(model, 2, 130)
    stock = _logits(model, ids)
    for name in ("chunk", "recurrent", "causal_conv1d", "causal_conv1d_", "rms_norm_gated"):
        monkeypatch.setattr(gdn.ops, name, getattr(gdn.staged, name))
    enable(model)
    with torch.no_grad():
        begun = model(ids[:, :-2], use_cache=True)
        parts = [begun.logits]
        for t in (128, 129):
            parts.append(model(ids[:, t : t + 1], past_key_values=begun.past_key_values).logits)
    assert 0 < _difference(torch.cat(parts, 1), stock) < LOGITS


def test_a_norm_that_somebody_wrapped_is_left_alone(shipped):
    """As accelerate wraps one whose weight is elsewhere until it is used."""
    norm = _layers(shipped)[0].norm
    inner, calls = norm.forward, []
    norm.forward = lambda *args: (calls.append(1), inner(*args))[1]
    ids = _ids(shipped, 1, 30)
    stock = _logits(shipped, ids)
    enable(shipped)
    assert _difference(_logits(shipped, ids), stock) < LOGITS
    disable(shipped)
    assert torch.equal(_logits(shipped, ids), stock)
    assert len(calls) == 3


def test_a_model_without_such_layers():
    message = r"gdn.integrations.transformers.enable: Linear has no Gated DeltaNet layer"
    with pytest.raises(ValueError, match=message):
        enable(torch.nn.Linear(2, 2))


PAIR = r"found transformers 5.* and kernels 0.*expected transformers 5.22 and kernels 0.17.2"


def test_without_kernels_the_error_names_the_pair(shipped, monkeypatch):
    monkeypatch.setitem(sys.modules, "kernels", None)
    with pytest.raises(ImportError, match=PAIR):
        enable(shipped)


def test_where_versions_do_not_fit_the_error_names_the_pair(shipped, monkeypatch):
    """transformers leaves its layers unmarked with a kernels that it does not take; those of another
    version may have functions with other parameters."""
    layer = _layers(shipped)[1]
    function = layer._kernel_funcs["chunk_gated_delta_rule"]
    with monkeypatch.context() as patch:
        patch.delattr(layer, "_kernel_funcs")
        with pytest.raises(ImportError, match=PAIR):
            enable(shipped)
    with monkeypatch.context() as patch:
        import kernels.layer.layer

        patch.setattr(kernels.layer.layer, "_CACHED_LAYER", {})
        patch.setattr(type(function), "forward", lambda self, query, key: None)
        with pytest.raises(ImportError, match=PAIR):
            enable(shipped)
        assert not _functions_are_replaced(shipped)
    disable(enable(shipped))  # puts back the forward that was patched


def test_text_comes_as_it_is_made(shipped):
    tokenizer = models.shipped_tokenizer()
    inputs = tokenizer("And it came to pass", return_tensors="pt")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    enable(shipped)
    how = dict(max_new_tokens=20, do_sample=False, streamer=streamer)
    thread = threading.Thread(target=shipped.generate, kwargs={**inputs, **how})
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == ", that the king of I"
