"""Gated DeltaNet operators for PyTorch.

The functions here have the signatures of the libraries that a model may use already:
flash-linear-attention's delta rule, norms and gates, causal-conv1d's convolution. gdn.ops has every
operator with all its options, torch.ops.gdn the same without the Python around it. docs/python.md
shows both.
"""

import torch

from . import _autograd, _fake

_fake.register()
_autograd.register()

from . import ops  # noqa: E402  (the operators are complete now)
from ._dispatch import has_kernel, kernel, out_of_range  # noqa: E402
from ._lazy import lazy_modules  # noqa: E402
from ._library import without_cuda as _without_cuda  # noqa: E402
from .causal_conv1d import causal_conv1d_fn, causal_conv1d_update  # noqa: E402
from .delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule  # noqa: E402
from .elementwise import fused_gdn_gating, l2norm, rms_norm_gated, solve_tril  # noqa: E402


def info():
    """What `gdn info` prints: version, processor, threads, kernels, and which of them is chosen and
    why. This and kernels() ask the GPU's driver, after which a process cannot fork and use the
    GPU."""
    gpus = "" if _without_cuda is None else f"\nno kernels for NVIDIA GPUs: {_without_cuda}\n"
    return torch.ops.gdn.info() + gpus


def kernels():
    """The names of the kernels that run on this machine, the preferred first: what gdn.kernel()
    takes."""
    return torch.ops.gdn.kernels()


__getattr__, __dir__ = lazy_modules(globals(), "compat", "integrations", "staged")
__version__ = torch.ops.gdn.version()

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "chunk_gated_delta_rule",
    "fused_gdn_gating",
    "fused_recurrent_gated_delta_rule",
    "has_kernel",
    "info",
    "kernel",
    "kernels",
    "l2norm",
    "ops",
    "out_of_range",
    "rms_norm_gated",
    "solve_tril",
]
