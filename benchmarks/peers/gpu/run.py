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


def why_not(call, expected):
    """Why the call is not timed, if its result on copy 0 is not the operator's; notes its errors."""
    try:
        out, states = call.result(call.run(0))
    except (RuntimeError, ValueError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    call.errors = tuple(relative(found, wanted) for found, wanted in zip((out, states), expected))
    if max(call.errors) < on_cpu.WRONG:
        return None
    return "wrong by {:.1e} (out), {:.1e} (states)".format(*call.errors)


def calls_of(peer, inputs, expected):
    """The peer's right calls, and what is wrong with the others."""
    kept, failures = [], []
    for call in peer.decode(inputs) if inputs.work.decode else peer.prefill(inputs):
        failure = why_not(call, expected)
        if failure:
            failures.append(f"{call.note} {failure}".strip())
            say(f"{inputs.work.id}: {peer.NAME}, {failures[-1]}")
        else:
            kept.append(call)
    return kept, failures


def results_of(of, peers, rounds, cache, device):
    inputs = work.Inputs(of, cache, device)
    expected = work.reference(inputs)
    graphs, chosen = {}, {}
    for peer in peers:
        calls, failures = calls_of(peer, inputs, expected)
        if calls:
            try:
                chosen[peer.NAME], graphs[peer.NAME] = measure.fastest(calls, inputs.copies)
            except (RuntimeError, ValueError, AssertionError) as error:
                failures.append(f"{type(error).__name__}: {error}")
        if failures and peer.NAME not in graphs:
            say(f"{of.id}: {peer.NAME} is not timed")
            yield dict(peer=peer.NAME, failure="; ".join(failures), errors=None)
    del expected
    samples = measure.take_turns(graphs, rounds)
    for name in graphs:
        result = dict(
            peer=name,
            note=chosen[name].note,
            errors=chosen[name].errors,
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
