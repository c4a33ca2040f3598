"""The delta rule with vLLM's signatures (vllm/third_party/flash_linear_attention/ops of vLLM 0.32)
and its meaning of every argument. States are [..,HV,V,K].

Decode works on a pool of states, initial_state [slots,HV,V,K] with any stride between slots, and
ssm_state_indices names the slots: [N], or [N,M] with a column a token. vLLM calls slot 0 its null
block: an index of 0 or below is padding, whose rows of out are zero and whose states are not
written. `null_slot`, the one argument that vLLM lacks, is for pools whose slot 0 is a slot like any
other: None.

One reading is ours. Where vLLM would take the neighbour's index, with [N] indices and several
tokens a sequence, the slot gets the state after the last one.
"""

import torch
from torch import Tensor

from .. import ops
from .._arguments import as_like_or_float32, unsupported
from ..staged.check import Check
from ..staged.check_slots import check_slots
from ..staged.states import StatePool
from ._arguments import gates, operands, without_gaps

__all__ = [
    "chunk_gated_delta_rule",
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_gated_delta_rule_packed_decode",
    "fused_sigmoid_gating_delta_rule_update",
]


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    inplace_final_state: bool = True,
    cu_seqlens: Tensor | None = None,
    ssm_state_indices: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    *,
    null_slot: int | None = 0,
) -> tuple[Tensor, Tensor]:
    """Decode and verification, token by token.

    q, k: float [B,T,H,K]; v: [B,T,HV,V], q's dtype; g, beta: float [B,T,HV], beta absent: 1.
    cu_seqlens: int [N+1], B = 1; absent: a sequence a row.
    ssm_state_indices: int [N] or [N,M], or longer. [N,M]: a sequence reads the slot of column 0, or
    num_accepted_tokens[n] - 1, and the state after token t goes to that of column t. Absent: slot
    n.
    inplace_final_state: the states go into initial_state. Otherwise the second result has the state
    after every token, [B*T,HV,V,K], zero for tokens of no sequence, and initial_state stays.

    Returns out [B,T,HV,V] in q's dtype, and initial_state or the states."""
    return _recurrent(
        "fused_recurrent_gated_delta_rule", q, k, v, {"g": g, "beta": beta}, scale, initial_state,
        inplace_final_state, cu_seqlens, ssm_state_indices, num_accepted_tokens,
        use_qk_l2norm_in_kernel, null_slot,
    )  # fmt: skip


def fused_sigmoid_gating_delta_rule_update(
    A_log: Tensor,
    a: Tensor,
    b: Tensor,
    dt_bias: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: float = 1.0,
    threshold: float = 20.0,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    inplace_final_state: bool = True,
    cu_seqlens: Tensor | None = None,
    ssm_state_indices: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    is_kda: bool = False,
    *,
    null_slot: int | None = 0,
) -> tuple[Tensor, Tensor]:
    """fused_recurrent_gated_delta_rule with its gates computed inside: g = -exp(A_log) softplus(a +
    dt_bias) and sigmoid(b), of A_log, dt_bias: float [HV]; a, b: float [tokens,HV] or [B,T,HV];
    `beta` and `threshold` are the softplus's. is_kda, a decay a channel, is not supported."""
    unsupported("fused_sigmoid_gating_delta_rule_update", is_kda=is_kda)
    shape = v.shape[:3]
    inside = {
        "A_log": A_log,
        "a": as_like_or_float32(a.reshape(shape), q),
        "dt_bias": dt_bias,
        "b": as_like_or_float32(b.reshape(shape), q),
        "softplus_beta": beta,
        "softplus_threshold": threshold,
    }
    return _recurrent(
        "fused_sigmoid_gating_delta_rule_update", q, k, v, inside, scale, initial_state,
        inplace_final_state, cu_seqlens, ssm_state_indices, num_accepted_tokens,
        use_qk_l2norm_in_kernel, null_slot,
    )  # fmt: skip


def fused_recurrent_gated_delta_rule_packed_decode(
    mixed_qkv: Tensor,
    a: Tensor,
    b: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    scale: float,
    initial_state: Tensor,
    out: Tensor,
    ssm_state_indices: Tensor,
    use_qk_l2norm_in_kernel: bool = False,
    *,
    null_slot: int | None = 0,
) -> tuple[Tensor, Tensor]:
    """A token a sequence, q, k and v of which lie side by side: mixed_qkv float [B,2HK+HV*V]; a, b
    [B,HV]; A_log, dt_bias [HV]; ssm_state_indices [B]. Writes out [B,1,HV,V] and the slots, and
    returns out and initial_state."""
    name = "fused_recurrent_gated_delta_rule_packed_decode"
    for tensor, what, ndim in (
        (mixed_qkv, "`mixed_qkv`", 2),
        (a, "`a`", 2),
        (b, "`b`", 2),
        (A_log, "`A_log`", 1),
        (dt_bias, "`dt_bias`", 1),
        (ssm_state_indices, "`ssm_state_indices`", 1),
        (initial_state, "`initial_state`", 4),
    ):
        if tensor.ndim != ndim:
            raise ValueError(f"gdn.{name}: {what} has {tensor.ndim} axes, expected {ndim}")
    B = mixed_qkv.shape[0]
    HV, V, K = initial_state.shape[1:]
    if out.shape != (B, 1, HV, V):
        raise ValueError(f"gdn.{name}: `out` has shape {list(out.shape)}, expected {[B, 1, HV, V]}")
    qk = mixed_qkv.shape[1] - HV * V
    H = qk // (2 * K)
    if qk <= 0 or qk % (2 * K) or HV % H:
        raise ValueError(
            f"gdn.{name}: Invalid packed `mixed_qkv` last dim={mixed_qkv.shape[1]}, expected "
            f"2*H*{K} + {HV * V} with {HV} a multiple of H"
        )
    q, k, v = mixed_qkv.unsqueeze(1).split((H * K, H * K, HV * V), dim=-1)
    result, _ = fused_sigmoid_gating_delta_rule_update(
        A_log, a, b, dt_bias,
        q.unflatten(-1, (H, K)), k.unflatten(-1, (H, K)), v.unflatten(-1, (HV, V)),
        scale=scale, initial_state=initial_state, ssm_state_indices=ssm_state_indices,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel, null_slot=null_slot,
    )  # fmt: skip
    out.copy_(result)
    return out, initial_state


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    chunk_offsets: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    core_attn_out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Prefill. q, k: float [B,T,H,K]; v: [B,T,HV,V], q's dtype; g, beta: float [B,T,HV];
    initial_state: float [N,HV,V,K]; cu_seqlens: int [N+1], B = 1. chunk_indices and chunk_offsets,
    which follow from cu_seqlens, are not looked at. core_attn_out, a contiguous buffer of q's dtype
    for at least v's elements, takes the output, which is then a view of it.

    Returns out [B,T,HV,V] and the last states [N,HV,V,K], float32, or None."""
    name = "chunk_gated_delta_rule"
    _check_pack(name, q, cu_seqlens)
    _check_scale(name, scale)
    N = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if initial_state is not None and initial_state.shape[0] != N:
        raise ValueError(
            f"gdn.{name}: The number of initial states is expected to be equal to the number of "
            f"input sequences, i.e., {N} rather than {initial_state.shape[0]}."
        )
    buffer = None
    if core_attn_out is not None:
        if core_attn_out.numel() < v.numel() or core_attn_out.dtype != q.dtype:
            raise ValueError(
                f"gdn.{name}: core_attn_out too small or of another dtype: "
                f"{core_attn_out.numel()} elements of {core_attn_out.dtype}, expected {v.numel()} "
                f"of {q.dtype}"
            )
        buffer = core_attn_out.view(-1)[: v.numel()].view(v.shape)
    g, beta = _gates(name, g, beta, q)
    q, k, v = operands(q, k, v)
    # float32 states come of float32 ones: the last is not to be rounded to a 16-bit initial one.
    if initial_state is not None:
        initial_state = without_gaps(initial_state.float())
    out, state = ops.chunk(
        q, k, v, g, beta, initial_state, state_layout="vk",
        output_final_state=output_final_state, cu_seqlens=cu_seqlens, scale=scale,
        use_qk_l2norm=use_qk_l2norm_in_kernel,
    )  # fmt: skip
    if buffer is not None:
        out = buffer.copy_(out)
    return out, state if output_final_state else None


def _recurrent(
    name, q, k, v, inside, scale, initial_state, inplace_final_state, cu_seqlens, indices,
    num_accepted, l2norm, null_slot,
):  # fmt: skip
    _check_pack(name, q, cu_seqlens)
    _check_scale(name, scale)
    if initial_state is None and (inplace_final_state or indices is not None):
        raise ValueError(f"gdn.{name}: initial_state is absent, expected the pool of states")
    if indices is None and num_accepted is not None:
        raise ValueError(
            f"gdn.{name}: num_accepted_tokens is given, expected ssm_state_indices with it"
        )
    if "g" in inside:
        g, beta = _gates(name, inside.pop("g"), inside.pop("beta"), q)
    else:
        g = beta = None
    dtype = q.dtype
    q, k, v = operands(q, k, v)
    N = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    slots = _slots(indices, num_accepted, N, null_slot)
    if inplace_final_state:
        pool = without_gaps(initial_state)
        state = pool[:N] if indices is None else pool
    else:
        state, slots = _states_of_tokens(name, v, q, initial_state, cu_seqlens, N, slots)
    out = ops.recurrent_(
        q, k, v, g, beta, state, state_layout="vk", cu_seqlens=cu_seqlens, scale=scale,
        use_qk_l2norm=l2norm, **inside, **slots,
    )  # fmt: skip
    out = out.to(dtype)
    if not inplace_final_state:
        return out, state[N:]
    if pool is not initial_state:
        initial_state.copy_(pool)
    return out, initial_state


def _slots(indices, num_accepted, N, null_slot) -> dict:
    """The operator's arguments for these indices."""
    if indices is None:
        return {}
    indices = indices[:N]
    slots = {"null_slot": null_slot}
    if num_accepted is not None:
        columns = indices.unsqueeze(1) if indices.ndim == 1 else indices
        return {"initial_state_indices": columns, "num_accepted": num_accepted[:N], **slots}
    if indices.ndim == 1:
        return {"initial_state_indices": indices, **slots}
    return {"initial_state_indices": indices[:, 0], "final_state_indices": indices, **slots}


def _states_of_tokens(name, v, q, initial_state, cu_seqlens, N, slots) -> tuple[Tensor, dict]:
    """A pool of the sequences' initial states, [N], and one for the state after every token, [B*T];
    and the slots to match."""
    B, T = q.shape[:2]
    shape = (v.shape[2], v.shape[3], q.shape[3])
    skipped = None
    if initial_state is None:
        first = q.new_zeros(N, *shape, dtype=torch.float32)
    else:
        read, accepted, null_slot = (
            slots.get(x) for x in ("initial_state_indices", "num_accepted", "null_slot")
        )
        check_slots(
            Check(f"gdn.{name}"), N, initial_state if slots else initial_state[:N], None, False, read, None, None,
            accepted, null_slot,
        )  # fmt: skip
        first, skipped = StatePool(
            initial_state, N, False, read, None, None, accepted, null_slot
        ).read()
    state = torch.cat([first, first.new_zeros(B * T, *shape)])
    sequence = torch.arange(N, device=q.device)
    begin = sequence * T if cu_seqlens is None else cu_seqlens[:-1].long()
    # Columns past a sequence's tokens are not looked at.
    tokens = N + begin[:, None] + torch.arange(T, device=q.device)
    if skipped is not None:
        sequence = torch.where(skipped, -1, sequence)
    return state, {"initial_state_indices": sequence, "final_state_indices": tokens}


def _gates(name: str, g: Tensor, beta: Tensor | None, q: Tensor) -> tuple[Tensor, Tensor | None]:
    if beta is not None and beta.ndim == 4:
        raise NotImplementedError(f"gdn.{name}: beta has a value a channel, which is not supported")
    return gates(g, beta, q)


def _check_pack(name: str, q: Tensor, cu_seqlens: Tensor | None) -> None:
    if cu_seqlens is not None and q.shape[0] != 1:
        raise ValueError(
            f"gdn.{name}: The batch size is expected to be 1 rather than {q.shape[0]} when using "
            "`cu_seqlens`."
        )


def _check_scale(name: str, scale: float | None) -> None:
    if scale is not None and not scale > 0:
        raise ValueError(f"gdn.{name}: scale is {scale}: scale must be positive")
