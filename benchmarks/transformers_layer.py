#!/usr/bin/env python3
"""A Gated DeltaNet layer of Hugging Face's Qwen3.5: gdn's operators against transformers' own code.

    benchmarks/transformers_layer.py                             2048 tokens, and a decode step
    benchmarks/transformers_layer.py --heads 2 4 --hidden 256    the layer of data/tiny-qwen35

Needs the extra gdn[transformers]. The two take turns. Times are those of the delta-rule call inside
the layer, gates and the repetition of key heads not included, and of the whole layer with its
matrix products, which are PyTorch's in both; of each the median, the spread, and the ratio of
medians and of minima. On a busy machine set OMP_WAIT_POLICY=passive, or --threads 1, and believe
the minima. The condition: the delta-rule call at 2048 tokens at least 5 times faster than
transformers' own.
"""

import argparse
import json
import os
import statistics
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"

# Large tensors otherwise come from fresh pages each time, which costs transformers' code up to half
# of its time.
_TUNABLES = (
    "glibc.malloc.mmap_threshold=17179869184:glibc.malloc.trim_threshold=17179869184:"
    "glibc.malloc.hugetlb=1"
)
if __name__ == "__main__" and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = _TUNABLES
    os.execv(sys.executable, [sys.executable, *sys.argv])

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.qwen3_5 import modeling_qwen3_5  # noqa: E402

import gdn  # noqa: E402
from gdn.integrations.transformers import disable, enable  # noqa: E402


def make_layer(options, dtype):
    config = transformers.Qwen3_5TextConfig(
        hidden_size=options.hidden,
        linear_num_key_heads=options.heads[0],
        linear_num_value_heads=options.heads[1],
        linear_key_head_dim=options.dim,
        linear_value_head_dim=options.dim,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    layer = modeling_qwen3_5.Qwen3_5GatedDeltaNet(config, layer_idx=0).eval().to(dtype)
    return layer, config


class Stopwatch:
    """Seconds that a module's calls took, summed up, by hooks on it."""

    def __init__(self, module):
        self.seconds = 0.0
        self._hooks = module.register_forward_pre_hook(self._start), module.register_forward_hook(
            self._stop
        )

    def _start(self, *_):
        self._began = time.perf_counter()

    def _stop(self, *_):
        self.seconds += time.perf_counter() - self._began

    def remove(self):
        for hook in self._hooks:
            hook.remove()


def run_once(layer, function, x, cache):
    """(seconds of the delta-rule call, seconds of the layer)"""
    watch = Stopwatch(layer._kernel_funcs[function])
    began = time.perf_counter()
    layer(x, cache_params=cache)
    whole = time.perf_counter() - began
    watch.remove()
    return watch.seconds, whole


@torch.inference_mode()
def compare(options, dtype, tokens):
    layer, config = make_layer(options, dtype)
    x = torch.randn(1, tokens, options.hidden, dtype=dtype)
    cache, function = None, "chunk_gated_delta_rule"
    if tokens == 1:
        cache, function = (
            transformers.DynamicCache(config=config),
            "fused_recurrent_gated_delta_rule",
        )
        layer(torch.randn(1, 64, options.hidden, dtype=dtype), cache_params=cache)
    codes = {"gdn": enable, "transformers": disable}
    times = {code: [] for code in codes}
    for turn in range(options.turns + 1):
        for code, switch in codes.items():
            switch(layer)
            # Of a decode step many, since one is short.
            found = [run_once(layer, function, x, cache) for _ in range(50 if tokens == 1 else 1)]
            if turn > 0:  # the first warms up
                times[code].append([statistics.mean(part) for part in zip(*found)])
    disable(layer)
    results = []
    for place, what in enumerate(["delta rule", "layer"]):
        result = dict(dtype=str(dtype).removeprefix("torch."), tokens=tokens, what=what)
        for code in codes:
            ms = [turn[place] * 1e3 for turn in times[code]]
            result[code] = dict(median=statistics.median(ms), min=min(ms), max=max(ms))
        for which in ("median", "min"):
            result[f"ratio of {which}"] = result["transformers"][which] / result["gdn"][which]
        results.append(result)
    return results


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--heads", type=int, nargs=2, default=[16, 32], help="key heads, value heads"
    )
    parser.add_argument("--dim", type=int, default=128, help="of a head")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[2048, 1], help="1 is a decode step"
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument(
        "--json", action="store_true", help="write JSON, and nothing else, to stdout"
    )
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    results = []
    for dtype in options.dtypes:
        for tokens in options.tokens:
            results += compare(options, getattr(torch, dtype), tokens)
    about = dict(
        torch=torch.__version__,
        transformers=transformers.__version__,
        gdn=gdn.__version__,
        threads=options.threads,
        heads=options.heads,
        dim=options.dim,
        hidden=options.hidden,
    )
    if options.json:
        print(json.dumps(dict(**about, results=results), indent=2))
        return
    print(gdn.info().split("\n\n")[0])
    print(*(f"{name:10} {value}" for name, value in about.items() if name != "gdn"), sep="\n")
    print(
        f"\n{'':32} {'gdn, ms: median (min, max)':>30} {'transformers':>30} "
        f"{'ratio: median, min':>20}"
    )
    for r in results:
        ours, stock = (
            f"{r[c]['median']:.3f} ({r[c]['min']:.3f}, {r[c]['max']:.3f})"
            for c in ("gdn", "transformers")
        )
        print(
            f"{r['dtype']:9} {r['tokens']:5} tokens  {r['what']:10} {ours:>30} {stock:>30} "
            f"{r['ratio of median']:13.1f} {r['ratio of min']:6.1f}"
        )


if __name__ == "__main__":
    main()
