"""vllm_gaudi.ops.hpu_gdn_pytorch, name for name and argument for argument: code that was written
for that module runs by changing its import.

    hpu_fused_gdn_gating                    gates
    hpu_chunk_gated_delta_rule              prefill, and its stages: hpu_chunk_gdr_preprocess,
                                            hpu_chunk_gdr_phase_a, hpu_chunk_gdr_phase_b
    hpu_fused_recurrent_gated_delta_rule    decode

These run the fused kernel on a device that has one, the stages of gdn.staged on any other. The
names with an underscore are the stages always. Three switches are read from the environment at
import, and from here at every call:

    _GDN_COMPUTE_DTYPE      VLLM_GDN_COMPUTE_FP32=0: torch.bfloat16, else torch.float32
    _USE_EXACT_SOLVE        VLLM_GDN_EXACT_SOLVE=1: the stages invert by forward substitution, not
                            by Neumann's iteration. (A fused kernel substitutes always.)
    _USE_LEGACY_PHASE_B     VLLM_GDN_LEGACY_PHASE_B=1: the stages walk with v_new = u - w S^T

Where this differs, it is right and that module was not; docs/python.md has the list.
"""

import logging
import os

import torch

_GDN_COMPUTE_DTYPE = (
    torch.float32 if os.getenv("VLLM_GDN_COMPUTE_FP32", "1") == "1" else torch.bfloat16
)
_USE_EXACT_SOLVE = os.getenv("VLLM_GDN_EXACT_SOLVE", "0") == "1"
_USE_LEGACY_PHASE_B = os.getenv("VLLM_GDN_LEGACY_PHASE_B", "0") == "1"

logger = logging.getLogger(__name__)

from .operators import (  # noqa: E402  (the switches come first)
    _hpu_chunk_gated_delta_rule_legacy,
    _recurrent_general_path,
    hpu_chunk_gated_delta_rule,
    hpu_fused_gdn_gating,
    hpu_fused_recurrent_gated_delta_rule,
)
from .parts import (  # noqa: E402
    _eager_read_state,
    _eager_reshape_output,
    _hpu_solve_lower_triangular_batched,
    _l2norm_last_dim,
    _materialize_seq_ranges,
    _preprocess_qk_l2norm,
    _recurrent_timestep_body,
    _solve_exact_forward_sub,
)
from .stages import (  # noqa: E402
    _chunk_precomputed_pipeline,
    _chunk_vectorized_body,
    _hpu_chunk_gdr_phase_b_legacy,
    _hpu_chunk_gdr_phase_b_optimized,
    _phase_b_step,
    hpu_chunk_gdr_phase_a,
    hpu_chunk_gdr_phase_b,
    hpu_chunk_gdr_preprocess,
)

__all__ = [
    "hpu_chunk_gated_delta_rule",
    "hpu_chunk_gdr_phase_a",
    "hpu_chunk_gdr_phase_b",
    "hpu_chunk_gdr_preprocess",
    "hpu_fused_gdn_gating",
    "hpu_fused_recurrent_gated_delta_rule",
]
