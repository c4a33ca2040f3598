#!/usr/bin/env python3
"""Prefills a prompt, then decodes one token, on a pool of states: prefill_decode.cpp in Python."""

import torch

import gdn

prompt, H, HV, K, V, slots = 100, 2, 4, 128, 128, 8
T = prompt + 1
q, k = torch.full((1, T, H, K), 0.1), torch.full((1, T, H, K), 0.1)
v = torch.ones(1, T, HV, V)
g, beta = torch.full((1, T, HV), -0.05), torch.full((1, T, HV), 0.5)
pool = torch.zeros(slots, HV, V, K)
slot = torch.tensor([3])  # where this sequence keeps its state

options = dict(state_layout="vk", initial_state_indices=slot, use_qk_l2norm=True)
gdn.ops.chunk_(*(x[:, :prompt] for x in (q, k, v, g, beta)), pool, **options)
out = gdn.ops.recurrent_(*(x[:, prompt:] for x in (q, k, v, g, beta)), pool, **options)

print(f"out of the last token: {out[0, 0, 0, 0]:.6g}")
