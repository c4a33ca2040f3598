#!/usr/bin/env python3
"""libgdn beside its peers on this machine's GPU: the same tensors, one process, taking turns.

    benchmarks/peers_gpu.py                                  everything
    benchmarks/peers_gpu.py --quick                          tiny shapes, to see that all peers work
    benchmarks/peers_gpu.py --peers libgdn,flashinfer --work prefill-1x8192,decode
    benchmarks/peers_gpu.py --json FILE --markdown
    benchmarks/peers_gpu.py --from FILE --docs h200          docs/performance.md, from an earlier run

Runs in an environment with a PyTorch for CUDA, gdn (`pip install .`) and those peers that it finds:

    pip install flashinfer-python==0.7.2 flash-linear-attention==0.6.0

Every result is compared with a float64 reference before anything is timed. A time is that of a replayed CUDA graph,
which calls the peer once on each of several copies of the inputs, together over three times the second-level cache.
"""

import argparse
import json
import pathlib
import sys

from peers import document
from peers.arguments import words
from peers.gpu import report

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEERS = ["libgdn", "flashinfer", "fla"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=words(PEERS), default=PEERS, help=", ".join(PEERS))
    parser.add_argument(
        "--work",
        type=lambda text: text.split(","),
        default=[""],
        help="what to time, by beginnings of names: prefill, prefill-1x8192-16/32, decode-fp32 (dtype of the states)",
    )
    parser.add_argument("--rounds", type=int, help="samples of a peer (15; quick: 3)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and few samples")
    parser.add_argument("--json", type=pathlib.Path, help="write the results, after every piece of work")
    parser.add_argument("--markdown", action="store_true", help="print the tables as docs/performance.md has them")
    parser.add_argument(
        "--docs", metavar="MACHINE", help="put the tables into docs/performance.md, between this machine's marks"
    )
    parser.add_argument("--from", type=pathlib.Path, dest="source", help="report these results instead of measuring")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 15)
    return options


def measure(options):
    from peers.gpu import run  # which needs PyTorch

    def write(found):
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")

    return run.run(options, write)


def main():
    options = arguments()
    found = json.loads(options.source.read_text()) if options.source else measure(options)
    if not found["results"]:
        sys.exit(f"--work: no name begins with {', '.join(options.work)}")
    if options.docs:
        if found["quick"]:
            sys.exit("--docs: not with the shapes of --quick")
        document.put(ROOT / "docs", f"peers_gpu.py --docs {options.docs}", report.markdown(found))
    print(report.markdown(found) if options.markdown else report.text(found))
    if any("failure" in result for result in found["results"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
