#!/usr/bin/env python3
"""What a call from Python costs above the library's own work: decode by one token, B 1, HV 1, K = V
= 8, states updated in place, where there is almost no work.

    benchmarks/python_overhead.py                                microseconds a call
    benchmarks/python_overhead.py --gdn build/release/tools/gdn  and above gdn bench's C++ call
    benchmarks/python_overhead.py --device cuda                  with tensors on a GPU: the host's time

The condition: torch.ops at most 6 microseconds above the C++ call, the Python function at most 2
more. Forms take turns, and of each the median and the spread over the turns are given; on a busy
machine the least is nearest to the truth.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch

import gdn

D = 8


def forms(device):
    """name: a call. Arguments are those of a decode step in a server: a pool of states and a
    slot."""
    with torch.device(device):
        return forms_there()


def forms_there():
    q, k, v = (torch.randn(1, 1, 1, D) for _ in range(3))
    g, beta = -torch.rand(1, 1, 1), torch.rand(1, 1, 1)
    pool, slot = torch.zeros(4, 1, D, D), torch.zeros(1, dtype=torch.int32)
    tokens = q, k, v, g, beta
    options = dict(state_layout="vk", initial_state_indices=slot, use_qk_l2norm=True)
    state = pool[:1].clone()
    in_place = torch.ops.gdn.recurrent_
    functional = torch.ops.gdn.recurrent
    return {
        "torch.ops.gdn.recurrent_": lambda: in_place(*tokens, pool, **options),
        "gdn.ops.recurrent_": lambda: gdn.ops.recurrent_(*tokens, pool, **options),
        "torch.ops.gdn.recurrent": lambda: functional(
            *tokens, state, state_layout="vk", output_final_state=True
        ),
        "gdn.ops.recurrent": lambda: gdn.ops.recurrent(
            *tokens, state, state_layout="vk", output_final_state=True
        ),
        "gdn.fused_recurrent_gated_delta_rule": lambda: gdn.fused_recurrent_gated_delta_rule(
            q, k, v, g, beta=beta, initial_state=state, output_final_state=True, state_v_first=True
        ),
    }


def microseconds(call, calls, device):
    """Of the host: what a GPU has left to do is waited for before the clock starts."""
    if device != "cpu":
        call()
        torch.accelerator.synchronize()
        calls = min(calls, 500)  # fewer than a stream takes before it makes the host wait
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e6


def cpp_microseconds(command):
    shape = f"H=1,HV=1,K={D},V={D}"
    arguments = "bench --ops decode --sequences 1 --dtype fp32 --threads 1 --json --shape".split()
    found = subprocess.run(
        [command, *arguments, shape], check=True, capture_output=True, text=True
    ).stdout
    return json.loads(found)["results"][0]["ms"]["min"] * 1e3


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gdn", help="the gdn command, for the time of the C++ call")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--calls", type=int, default=3000, help="of a turn")
    parser.add_argument(
        "--json", action="store_true", help="write JSON, and nothing else, to stdout"
    )
    options = parser.parse_args()

    torch.set_num_threads(1)
    cpp = cpp_microseconds(options.gdn) if options.gdn else None
    results = []
    modes = {
        "grad mode": torch.enable_grad,
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
    }
    for mode, context in modes.items():
        with context():
            calls = forms(options.device)
            found = {name: [] for name in calls}
            for _ in range(options.turns):
                for name, call in calls.items():
                    found[name].append(microseconds(call, options.calls, options.device))
        for name, times in found.items():
            result = dict(
                form=name,
                mode=mode,
                median=statistics.median(times),
                min=min(times),
                max=max(times),
            )
            results.append(result)
    if cpp is not None:
        cpp = min(cpp, cpp_microseconds(options.gdn))
    if options.json:
        print(
            json.dumps(
                dict(torch=torch.__version__, version=gdn.__version__, cpp=cpp, results=results),
                indent=2,
            )
        )
        return
    print(gdn.info().split("\n\n")[0])
    print(f"torch      {torch.__version__}")
    if cpp is not None:
        print(f"C++ call   {cpp:.2f} us at least")
    print(f"\n{'call':38} {'mode':15} {'median us':>9} {'min':>6} {'max':>6} {'above C++':>9}")
    for r in results:
        above = f"{r['min'] - cpp:9.2f}" if cpp is not None else ""
        times = f"{r['median']:9.2f} {r['min']:6.2f} {r['max']:6.2f}"
        print(f"{r['form']:38} {r['mode']:15} {times} {above}")


if __name__ == "__main__":
    main()
