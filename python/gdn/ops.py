"""The operators as torch.ops.gdn has them, argument for argument (csrc/schemas.cc,
include/gdn/ops.h), but raising ValueError, TypeError or IndexError where those raise RuntimeError,
and running on a device without a kernel too.

Names that end in "_" update their states in place.
"""

from ._dispatch import operator

chunk = operator("chunk")
chunk_ = operator("chunk_")
recurrent = operator("recurrent")
recurrent_ = operator("recurrent_")
replay_verify_ = operator("replay_verify_")
replay_commit_ = operator("replay_commit_")
gating = operator("gating")
l2norm = operator("l2norm")
rms_norm_gated = operator("rms_norm_gated")
causal_conv1d = operator("causal_conv1d")
causal_conv1d_ = operator("causal_conv1d_")
solve_tril = operator("solve_tril")
