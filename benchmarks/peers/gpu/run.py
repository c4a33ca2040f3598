"""Checks and times the peers on this machine's GPU."""

import gc
import importlib.metadata
import time

import torch

from .. import run as on_cpu
from ..measure import pair_ratios, quantiles
from ..work import relative
from . import measure, work

# key: the module; or, where a module has several, its function that lists them
PEERS = {"libgdn": "gpu.libgdn", "flashinfer": "gpu.flashinfer:peers", "fla": "gpu.fla"}

CACHES = 3.2  # sizes of the second-level cache that the copies of the inputs fill
say = on_cpu.say


def checked(call, expected):
    """Relative L2 errors (output, states) of the call on copy 0, and whether they are those of the operator."""
    out, states = call.result(call.run(0))
    errors = tuple(relative(found, wanted) for found, wanted in zip((out, states), expected))
    return errors, max(errors) < on_cpu.WRONG


def calls_of(peer, inputs, expected):
    """The peer's right calls, the errors of the first, and why it is not timed."""
    kept, errors = [], None
    for call in peer.decode(inputs) if inputs.work.decode else peer.prefill(inputs):
        found, right = checked(call, expected)
        if not right:
            return [], found, "wrong by {:.1e} (out), {:.1e} (states) {}".format(*found, call.note)
        errors = errors or found
        kept.append(call)
    return kept, errors, None


def results_of(of, peers, rounds, cache, device):
    inputs = work.Inputs(of, cache, device)
    expected = work.reference(inputs)
    graphs, notes, errors = {}, {}, {}
    for peer in peers:
        try:
            calls, errors[peer.NAME], failure = calls_of(peer, inputs, expected)
            if calls:
                call, graphs[peer.NAME] = measure.fastest(calls, inputs.copies)
                notes[peer.NAME] = call.note
        except (RuntimeError, ValueError, AssertionError) as error:
            failure = f"{type(error).__name__}: {error}"
        if failure:
            say(f"{of.id}: {peer.NAME} is not timed: {failure}")
            yield dict(peer=peer.NAME, failure=failure, errors=errors.get(peer.NAME))
    del expected
    samples = measure.take_turns(graphs, rounds)
    for name in graphs:
        result = dict(
            peer=name,
            note=notes[name],
            errors=errors[name],
            calls=graphs[name].calls,
            samples=len(samples[name]),
            us={key: value * 1e6 for key, value in quantiles(samples[name]).items()},
        )
        if "libgdn" in samples:
            result["ratio"] = pair_ratios(samples[name], samples["libgdn"])
        yield result


def run(options, done):
    """What was found; done(found) is called after every piece of work."""
    device = torch.device("cuda", torch.cuda.current_device())
    properties = torch.cuda.get_device_properties(device)
    peers, missing = on_cpu.load(options.peers, PEERS)
    found = dict(
        date=time.strftime("%Y-%m-%d"),
        gpu=properties.name,
        multiprocessors=properties.multi_processor_count,
        cache=properties.L2_cache_size,
        torch=torch.__version__,
        triton=importlib.metadata.version("triton"),
        quick=options.quick,
        versions={peer.NAME: peer.version() for peer in peers},
        missing=missing,
        work=[],
        results=[],
    )
    measure.warm_up(device)
    found["copy"] = measure.copy_rate(device)
    say(f"{properties.name}: a copy reads and writes {found['copy'] * 1e-12:.2f} TB/s")
    with torch.inference_mode():
        for of in work.all_work(options.quick):
            if not any(of.id.startswith(x) for x in options.work):
                continue
            start = time.perf_counter()
            found["work"].append(dict(id=of.id, group=of.group, name=of.name, bytes=of.bytes))
            for result in results_of(of, peers, options.rounds, int(CACHES * properties.L2_cache_size), device):
                found["results"].append(dict(work=of.id) | result)
            gc.collect()
            torch.cuda.empty_cache()
            times = {r["peer"]: r["us"]["median"] for r in found["results"] if r["work"] == of.id and "us" in r}
            text = ", ".join(f"{peer} {us:.1f}" for peer, us in times.items())
            say(f"{of.id}: {text} us ({time.perf_counter() - start:.1f} s)")
            done(found)
    return found
