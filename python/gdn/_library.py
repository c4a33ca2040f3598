"""Loads the shared object with the operators, torch.ops.gdn, and their kernels for the CPU."""

import pathlib

import torch

_file = pathlib.Path(__file__).with_name("libgdn_torch.so")
if not _file.exists():
    raise ImportError(
        f"gdn is not built: {_file} is missing; `pip install .` in the source tree builds it"
    )
torch.ops.load_library(str(_file))

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
