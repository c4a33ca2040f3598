"""The scripts in examples/ and benchmarks/ run, and print what they should."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

SOURCE = pathlib.Path(__file__).parents[2]
READABLE = "And it came to pass, that the king of Israel went out to meet him, and said"


def run(script, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SOURCE / script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment)


def test_prefill_decode():
    """The number of the same program in C++ and C (examples/CMakeLists.txt derives it)."""
    assert re.search(
        r"out of the last token: 0\.08427[78]", run("examples/prefill_decode.py").stdout
    )


def test_from_hpu_gdn_pytorch():
    """The ported code and the native one agree."""
    out = run("examples/from_hpu_gdn_pytorch.py").stdout
    differences = re.findall(r"^(\w+): largest difference (\S+)$", out, re.M)
    assert [what for what, _ in differences] == ["prefill", "decode", "cache"]
    assert all(float(difference) < 1e-5 for _, difference in differences)


@pytest.mark.parametrize("arguments", [[], ["--stock"], ["--dtype", "bfloat16"]], ids=str)
def test_hf_generate(arguments):
    pytest.importorskip("kernels", reason="the extra gdn[transformers] is not installed")
    done = run("examples/hf_generate.py", "--max-new-tokens", "60", *arguments)
    assert done.stdout.startswith(READABLE)
    assert re.fullmatch(r"60 tokens in .* tokens/s\n", done.stderr)


def test_hf_generate_draws_by_its_seed():
    pytest.importorskip("kernels", reason="the extra gdn[transformers] is not installed")
    how = ["--temperature", "0.8", "--max-new-tokens", "30", "--seed"]
    first, second = (run("examples/hf_generate.py", *how, seed).stdout for seed in ("1", "2"))
    assert first != second


def test_transformers_layer_benchmark():
    pytest.importorskip("kernels", reason="the extra gdn[transformers] is not installed")
    small = ["--heads", "2", "4", "--hidden", "64", "--tokens", "70", "1", "--turns", "2"]
    found = json.loads(run("benchmarks/transformers_layer.py", *small, "--json").stdout)
    assert len(found["results"]) == 8
    assert all(result["ratio of min"] > 0 for result in found["results"])
