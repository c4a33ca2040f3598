"""The process that measures, in the environment of the peers: one number of threads, one setting of the allocator.

    python -m peers.run OPTIONS.json RESULTS.json       from the folder benchmarks
"""

import gc
import importlib
import json
import os
import sys
import time

import torch

from . import measure, work

# key: the module; or, where a module has several, its function that lists them
PEERS = {
    "libgdn": "libgdn",
    "pytorch": "pytorch_chunked:peers",
    "huggingface": "huggingface",
    "vllm": "vllm_cpu",
    "zentorch": "zentorch",
    "onnxruntime": "onnx_runtime",
    "llama.cpp": "llama_cpp",
    "memory": "memory_loops:loops",
}

# A result that is further off than this is not that of the operator. The least exact peer reaches 5e-3 on these inputs.
WRONG = 2e-2


def say(text):
    print(text, file=sys.stderr, flush=True)


def load(keys, modules=PEERS):
    """The peers, and {key: why it cannot run here}."""
    peers, missing = [], {}
    for key in keys:
        module, _, several = modules[key].partition(":")
        try:
            module = importlib.import_module(f"{__package__}.{module}")
        except (ImportError, OSError, AttributeError, KeyError, RuntimeError) as error:
            missing[key] = f"{type(error).__name__}: {error}"
            say(f"{key} is left out: {missing[key]}")
            continue
        peers += getattr(module, several)() if several else [module]
    return peers, missing


def calls_of(of, peers, threads):
    """Of the peers that do this work: {name: Call}, checked; {name: errors}; {name: seconds of the checked
    call}; {name: why it is not timed}."""
    inputs = work.Inputs(of)
    expected = work.reference(inputs)
    pool = work.Pool(inputs) if of.decode else None
    calls, errors, seconds, failures = {}, {}, {}, {}
    for peer in peers:
        try:
            call = peer.decode(inputs, pool, threads) if of.decode else peer.prefill(inputs, threads)
            if call is None:
                continue
            if call.checked:
                if pool:
                    pool.fill(call.layout, call.indexed)
                seconds[peer.NAME] = measure.timed(call.run, 0, 1)
                errors[peer.NAME] = work.errors(call.result, expected)
        except RuntimeError as error:
            failures[peer.NAME] = str(error)
            continue
        if call.checked and not max(errors[peer.NAME]) < WRONG:
            failures[peer.NAME] = "wrong by {:.1e} (out), {:.1e} (state)".format(*errors[peer.NAME])
            continue
        calls[peer.NAME] = call
    if pool:
        pool.fill("vk", True)
    return calls, errors, seconds, failures


def results_of(of, peers, options):
    calls, errors, first, failures = calls_of(of, peers, options["threads"])
    runs = {name: call.run for name, call in calls.items()}
    samples = measure.take_turns(runs, first, options["turns"], options["budget"])
    for name, why in failures.items():
        say(f"{of.id}: {name} is not timed: {why}")
        yield dict(peer=name, failure=why, errors=errors.get(name))
    for name, call in calls.items():
        seconds = measure.quantiles(samples[name])
        result = dict(
            peer=name,
            note=call.note,
            errors=errors.get(name),
            samples=len(samples[name]),
            ms={key: value * 1e3 for key, value in seconds.items()},
        )
        if of.decode:
            result["gbyte_per_second"] = of.state_bytes / seconds["median"] * 1e-9
        else:
            result["gflop_per_second"] = of.flops / seconds["median"] * 1e-9
        if "libgdn" in samples:
            result["ratio"] = measure.pair_ratios(samples[name], samples["libgdn"])
        yield result


def main():
    with open(sys.argv[1]) as file:
        options = json.load(file)
    threads = options["threads"]
    torch.set_num_threads(threads)
    peers, missing = load(options["peers"])
    chosen = [of for of in work.all_work(options["quick"]) if any(of.id.startswith(x) for x in options["work"])]
    results = []
    with torch.inference_mode():
        for of in chosen:
            start = time.perf_counter()
            for result in results_of(of, peers, options):
                identity = dict(work=of.id, group=of.group, name=of.name, threads=threads)
                results.append(identity | dict(allocator=options["allocator"]) | result)
            gc.collect()
            say(f"{of.id}, {threads} threads, {options['allocator']} allocator: {time.perf_counter() - start:.1f} s")
    kernels = torch.ops.gdn.kernels() if "libgdn" in options["peers"] and "libgdn" not in missing else []
    found = dict(
        results=results,
        missing=missing,
        versions={peer.NAME: peer.version() for peer in peers},
        torch=torch.__version__,
        kernels=kernels,
        cpus=sorted(os.sched_getaffinity(0)),
    )
    with open(sys.argv[2], "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
