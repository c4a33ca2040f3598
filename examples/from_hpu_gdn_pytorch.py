#!/usr/bin/env python3
"""A step of a server that was written for vllm_gaudi.ops.hpu_gdn_pytorch: prefill of two prompts in
a bucket, then a decode step on the cache of states. First as it was but for its import, then in
gdn's own operators, which need no bucket and no copy into the cache."""

import torch

# Was: from vllm_gaudi.ops import hpu_gdn_pytorch as hpu
import gdn
import gdn.compat.hpu_gdn_pytorch as hpu

H, HV, D = 2, 4, 64
LENGTHS = [50, 50]
SLOTS = torch.tensor([5, 2], dtype=torch.int32)  # in the cache, for each prompt


def ported(q, k, v, g, beta, step, cache):
    out, states = hpu.hpu_chunk_gated_delta_rule(
        q,
        k,
        v,
        g,
        beta,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
        prefill_num_seqs=len(LENGTHS),
        prefill_seq_len=LENGTHS[0],
    )
    cache[SLOTS] = states
    next_out, _ = hpu.hpu_fused_recurrent_gated_delta_rule(
        *step,
        initial_state=cache,
        cu_seqlens=torch.arange(len(LENGTHS) + 1),
        ssm_state_indices=SLOTS,
        use_qk_l2norm_in_kernel=True,
    )
    return out, next_out


def native(q, k, v, g, beta, step, cache):
    lengths = torch.tensor([0, *LENGTHS])
    out = gdn.ops.chunk_(
        q,
        k,
        v,
        g,
        beta,
        cache,
        state_layout="vk",
        use_qk_l2norm=True,
        cu_seqlens=lengths.cumsum(0),  # of any lengths
        initial_state_indices=SLOTS,
        has_initial_state=torch.tensor([False, False]),  # whatever the slots held before
    )
    next_out = gdn.ops.recurrent_(
        *step,
        cache,
        state_layout="vk",
        use_qk_l2norm=True,
        cu_seqlens=torch.arange(len(LENGTHS) + 1),
        initial_state_indices=SLOTS,
    )
    return out, next_out


def tokens(T):
    q, k = torch.randn(2, 1, T, H, D)
    return q, k, torch.randn(1, T, HV, D), -torch.rand(1, T, HV), torch.rand(1, T, HV)


torch.manual_seed(0)
prompts, step = tokens(sum(LENGTHS)), tokens(len(LENGTHS))
caches = torch.zeros(2, 8, HV, D, D)
before = ported(*prompts, step, caches[0])
after = native(*prompts, step, caches[1])
for what, a, b in zip(("prefill", "decode", "cache"), (*before, caches[0]), (*after, caches[1])):
    print(f"{what}: largest difference {(a - b).abs().max():.1e}")
