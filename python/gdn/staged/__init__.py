"""The operators of torch.ops.gdn as tensor operations, for every device without a kernel.

Each function takes the arguments of the operator of its name. Read `chunk.py` first: the chunked
algorithm, a file a stage.
"""

from .causal_conv1d import causal_conv1d, causal_conv1d_
from .chunk import chunk, chunk_
from .gating import gating
from .l2norm import l2norm
from .recurrent import recurrent, recurrent_
from .replay import replay_commit_, replay_verify_
from .rms_norm_gated import rms_norm_gated
from .solve_tril import solve_tril

__all__ = [
    "causal_conv1d",
    "causal_conv1d_",
    "chunk",
    "chunk_",
    "gating",
    "l2norm",
    "recurrent",
    "recurrent_",
    "replay_commit_",
    "replay_verify_",
    "rms_norm_gated",
    "solve_tril",
]
