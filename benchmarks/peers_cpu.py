#!/usr/bin/env python3
"""libgdn beside its peers on this machine's processor: the same tensors, one run, taking turns.

    benchmarks/peers_cpu.py                                 everything, on one thread and on two
    benchmarks/peers_cpu.py --quick                         a minute of tiny shapes, to see that all peers work
    benchmarks/peers_cpu.py --peers libgdn,vllm --work prefill-bf16,decode-fp32-64 --threads 2
    benchmarks/peers_cpu.py --json FILE --svg FILE --markdown
    benchmarks/peers_cpu.py --from FILE --docs zen5         docs/performance.md and its chart, from an earlier run

Peers are installed into build/peers-venv, with pinned versions (peers/environment.py). Every result is compared with a
float64 reference before anything is timed. Of each peer the table has the median of its best setting of threads (up to
the column's number) and allocator, and how many times longer than libgdn that is.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

from peers import chart, document, environment, report
from peers.arguments import words

PEERS = ["libgdn", "pytorch", "huggingface", "vllm", "zentorch", "onnxruntime", "llama.cpp", "memory"]

# PyTorch's large temporaries otherwise come from fresh mappings, page fault by page fault, at up to twice the time of
# the peers that are made of them; and huge pages are asked for.
ALLOCATORS = {
    "tuned": "glibc.malloc.mmap_threshold=17179869184:glibc.malloc.trim_threshold=17179869184:glibc.malloc.hugetlb=1",
    "default": "",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cpus = len(os.sched_getaffinity(0))
    parser.add_argument("--peers", type=words(PEERS), default=PEERS, help=", ".join(PEERS))
    parser.add_argument(
        "--work",
        type=lambda text: text.split(","),
        default=[""],
        help="what to time, by beginnings of names: prefill-bf16, prefill-fp32-2048, decode-fp32 (state)",
    )
    parser.add_argument(
        "--threads",
        type=lambda text: [int(x) for x in text.split(",")],
        default=[n for n in (1, 2) if n <= cpus],
        help="numbers of threads, a process each; they are pinned to as many processors",
    )
    parser.add_argument(
        "--allocators",
        type=words(ALLOCATORS),
        default=["tuned"],
        help="tuned (large blocks kept, huge pages), default; with both, each peer's best counts",
    )
    parser.add_argument("--turns", type=int, help="samples of a peer (31; quick: 3)")
    parser.add_argument("--budget", type=float, help="timed seconds that a slow peer gets for its turns (2; quick: .2)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and few samples")
    parser.add_argument("--json", type=pathlib.Path, help="write the results")
    parser.add_argument("--svg", type=pathlib.Path, help="write the chart, of the largest number of threads")
    parser.add_argument("--markdown", action="store_true", help="print the tables as docs/performance.md has them")
    parser.add_argument(
        "--docs", metavar="MACHINE", help="put tables and chart into docs/performance.md, between this machine's marks"
    )
    parser.add_argument("--from", type=pathlib.Path, dest="source", help="report these results instead of measuring")
    parser.add_argument("--venv", type=lambda p: pathlib.Path(p).resolve(), default=environment.ROOT / "build/peers-venv")
    parser.add_argument("--no-install", action="store_true", help="measure what is installed already")
    parser.add_argument("--jobs", type=int, default=cpus, help="of the builds")
    options = parser.parse_args()
    if max(options.threads) > cpus:
        parser.error(f"--threads {max(options.threads)}: this process may use {cpus} processors")
    if options.docs and options.quick:
        parser.error("--docs: not with the shapes of --quick")
    options.turns = options.turns or (3 if options.quick else 31)
    options.budget = options.budget or (0.2 if options.quick else 2.0)
    return options


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def measure(options, threads, allocator):
    """One process of peers/run.py."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    with tempfile.TemporaryDirectory() as folder:
        asked, found = pathlib.Path(folder, "options.json"), pathlib.Path(folder, "results.json")
        wanted = dict(threads=threads, allocator=allocator)
        asked.write_text(
            json.dumps(wanted | {key: getattr(options, key) for key in ("peers", "work", "turns", "budget", "quick")})
        )
        variables = os.environ | environment.variables()
        variables |= dict(OMP_NUM_THREADS=str(threads), GLIBC_TUNABLES=ALLOCATORS[allocator], HF_HUB_OFFLINE="1")
        subprocess.run(
            [options.venv / "bin/python", "-m", "peers.run", asked, found],
            check=True,
            cwd=environment.ROOT / "benchmarks",
            env=variables,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        return json.loads(found.read_text())


def measure_all(options):
    if not options.no_install:
        environment.packages(options.venv)
        environment.libgdn(options.venv, options.jobs)
        environment.native(options.venv, options.jobs, "llama.cpp" in options.peers)
    start = time.time()
    runs = [measure(options, threads, allocator) for allocator in options.allocators for threads in options.threads]
    return dict(
        processor=processor(),
        threads=options.threads,
        allocators=options.allocators,
        quick=options.quick,
        seconds=time.time() - start,
        torch=runs[0]["torch"],
        kernels=runs[0]["kernels"],
        versions=runs[0]["versions"],
        missing=runs[0]["missing"],
        results=[result for run in runs for result in run["results"]],
    )


def main():
    options = arguments()
    found = json.loads(options.source.read_text()) if options.source else measure_all(options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(chart.svg(found, max(found["threads"])))
    if options.docs:
        document.write(environment.ROOT / "docs", options.docs, found)
    print(report.markdown(found) if options.markdown else report.text(found))
    if any("failure" in result for result in found["results"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
