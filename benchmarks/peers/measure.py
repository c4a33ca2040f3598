"""Peers in turns: clocks and neighbours change, and then they change for all."""

import random
import statistics
import time

BATCH = 2e-3  # seconds a sample lasts at least; shorter calls are repeated
WARM = 0.1  # a call shorter than this is preceded by untimed ones, after which caches and threads are its own
# How many of them, and of how many seconds together, at least: behind stores that go past the caches, those of one
# memory loop, states of 67 to 134 MB take four to eight calls to be in a shared cache again, and a call takes up to
# twice as long until they are.
SETTLING, SETTLED = 4, 40e-3
SLOW = 1.0  # a first call longer than this says enough: no other goes before the samples
FEWEST = 3  # samples of a slow peer


def timed(run, first_turn, calls):
    """Seconds a call."""
    start = time.perf_counter()
    for turn in range(first_turn, first_turn + calls):
        run(turn)
    return (time.perf_counter() - start) / calls


def take_turns(runs, first, turns, budget):
    """{name: seconds of each round} of {name: run(turn)}: `turns` rounds, but a peer leaves them when it has spent
    `budget` seconds on FEWEST samples or more, untimed calls left out. first: {name: seconds of its very first call},
    where that was timed."""
    found = {name: [] for name in runs}
    once, calls, turn, spent = {}, {}, {}, {}
    for name, run in runs.items():
        once[name] = first.get(name, 0)
        if once[name] < SLOW:
            once[name] = min(timed(run, at, 1) for at in range(1 if once[name] > WARM else 3))
        calls[name], turn[name], spent[name] = max(1, round(BATCH / once[name])), 3, 0.0
    order = random.Random(1)
    for _ in range(turns):
        for name in order.sample(list(runs), len(runs)):  # so that none is always after the same one
            samples = found[name]
            if spent[name] > budget and len(samples) >= FEWEST:
                continue
            if once[name] < WARM:
                start, settling = time.perf_counter(), 0
                while settling < SETTLING or time.perf_counter() - start < SETTLED:
                    runs[name](turn[name])
                    turn[name] += 1
                    settling += 1
            samples.append(timed(runs[name], turn[name], calls[name]))
            turn[name] += calls[name]
            spent[name] += samples[-1] * calls[name]
    return found


def quantiles(samples):
    if len(samples) < 2:
        return dict(median=samples[0], p10=samples[0], p90=samples[0])
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return dict(median=statistics.median(samples), p10=tenths[0], p90=tenths[8])


def pair_ratios(samples, others):
    """How many times longer `samples` took than `others`, round by round."""
    return quantiles([a / b for a, b in zip(samples, others)])
