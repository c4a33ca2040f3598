"""Loads the shared object with the operators, torch.ops.gdn: their kernels for the CPU and, where
PyTorch is one with CUDA and the package was built with it, for NVIDIA GPUs."""

import pathlib
import warnings

import torch

_folder = pathlib.Path(__file__).parent


def _load():
    """Returns why there are no kernels for GPUs; None where there are. Nothing here asks for a GPU:
    a process that has asked for one cannot fork."""
    cpu, cuda = _folder / "libgdn_torch.so", _folder / "libgdn_torch_cuda.so"
    if torch.version.cuda is None:
        reason = "this PyTorch has no CUDA"
    elif not cuda.exists():
        reason = "gdn was built without nvcc"
    else:
        try:
            torch.ops.load_library(str(cuda))
            return None
        except OSError as error:  # before any of its code has run
            reason = f"{cuda.name} does not load: {error.__cause__ or error}"
            warnings.warn(f"gdn: tensor operations run on GPUs, since {reason}")
    if not cpu.exists():
        raise ImportError(
            f"gdn is not built: {cpu} is missing; `pip install .` in the source tree builds it"
        )
    torch.ops.load_library(str(cpu))
    return reason


without_cuda = _load()

# Where an operator updates its states in place, as torch.ops.gdn names it, and where not.
IN_PLACE = ("chunk_", "recurrent_", "replay_verify_", "replay_commit_", "causal_conv1d_")
FUNCTIONAL = (
    "chunk",
    "recurrent",
    "gating",
    "l2norm",
    "rms_norm_gated",
    "causal_conv1d",
    "solve_tril",
    "reference_recurrent",
    "reference_chunk_stages",
)


def overload(name):
    """The operator torch.ops.gdn.<name>, without the search for an overload that a call of it would
    be."""
    return getattr(torch.ops.gdn, name).default
