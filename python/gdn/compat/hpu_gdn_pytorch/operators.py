"""The public operators, and the two private paths under them that the stages take whatever the
device."""

import torch
from torch import Tensor

import gdn.compat.hpu_gdn_pytorch as switches

from ... import ops, staged
from ..._dispatch import has_kernel
from ...staged.check import Check
from .._arguments import gates, operands, without_gaps
from .parts import check_iterations
from .stages import check_heads


def hpu_fused_gdn_gating(
    A_log: Tensor,
    a: Tensor,
    b: Tensor,
    dt_bias: Tensor,
    beta: float = 1.0,
    threshold: float = 20.0,
) -> tuple[Tensor, Tensor]:
    """g = -exp(A_log) softplus(a + dt_bias), float32 [1,T,HV], and sigmoid(b), b's dtype [1,T,HV], of
    a and b [T,HV]; A_log, dt_bias: [HV]; beta and threshold: the softplus's."""
    shape = a.shape
    g, strength = ops.gating(
        a.reshape(1, -1, shape[-1]),
        A_log,
        dt_bias,
        b.reshape(1, -1, shape[-1]),
        softplus_beta=beta,
        softplus_threshold=threshold,
        beta_dtype=b.dtype,
    )
    return g.reshape(1, *shape), strength.reshape(1, *shape)


def hpu_chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    chunk_size: int = 64,
    prefill_num_seqs: int | None = None,
    prefill_seq_len: int | None = None,
    neumann_iters: int = 14,
) -> tuple[Tensor, Tensor | None]:
    """Prefill. q, k: float [B,T,H,K]; v: float [B,T,HV,V]; g, beta: float [B,T,HV]; initial_state:
    float [N,HV,V,K].

    With both bucket sizes the tokens are prefill_num_seqs sequences of prefill_seq_len each,
    cu_seqlens is ignored, and nothing waits for the device. Else cu_seqlens [N+1] cuts B = 1 into
    sequences of any lengths, or every row is one.

    Returns out [B,T,HV,V] in q's dtype, and the last states [N,HV,V,K] in initial_state's dtype
    (float32 without one), or None."""
    B, T, H, _ = q.shape
    HV = v.shape[2]
    if chunk_size <= 0:
        raise ValueError(f"chunk_size must be > 0, got {chunk_size}.")
    check_iterations(neumann_iters)
    check_heads(H, HV, "hpu_chunk_gated_delta_rule")
    compute = "float32"
    if prefill_num_seqs is not None and prefill_seq_len is not None and prefill_num_seqs > 0:
        rows = (prefill_num_seqs, prefill_seq_len)
        if rows[0] * rows[1] != B * T:
            raise ValueError(
                "gdn.hpu_chunk_gated_delta_rule: prefill_num_seqs * prefill_seq_len is "
                f"{rows[0]} * {rows[1]}, expected {B * T}, the tokens of q"
            )
        q, k, v, g = (x.reshape(*rows, *x.shape[2:]) for x in (q, k, v, g))
        beta = None if beta is None else beta.reshape(*rows, HV)
        cu_seqlens = None
        if switches._GDN_COMPUTE_DTYPE == torch.bfloat16:
            compute = "bfloat16"
    _check_pack(B, cu_seqlens)
    _check_states(initial_state, q.shape[0], cu_seqlens)

    operator, how = ops.chunk, {"chunk_size": chunk_size}
    if not has_kernel(q.device):
        operator = staged.chunk
        how.update(_solver(neumann_iters))
        how["phase_b"] = "legacy" if switches._USE_LEGACY_PHASE_B else "optimized"
    out, state = _run_chunk(
        operator, q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens,
        use_qk_l2norm_in_kernel, compute=compute, **how,
    )  # fmt: skip
    return out.reshape(B, T, *out.shape[2:]), state


def _hpu_chunk_gated_delta_rule_legacy(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
    use_qk_l2norm_in_kernel: bool,
    chunk_size: int,
    neumann_iters: int,
    B: int,
    T: int,
    H: int,
    HV: int,
    Kdim: int,
    Vdim: int,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """hpu_chunk_gated_delta_rule without buckets, by the stages with the legacy walk, in
    float32."""
    check_heads(H, HV, "hpu_chunk_gated_delta_rule")
    _check_pack(B, cu_seqlens)
    _check_states(initial_state, B, cu_seqlens)
    return _run_chunk(
        staged.chunk, q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens,
        use_qk_l2norm_in_kernel, chunk_size=chunk_size, phase_b="legacy", **_solver(neumann_iters),
    )  # fmt: skip


def _solver(neumann_iters: int) -> dict:
    if switches._USE_EXACT_SOLVE:
        return {"solver": "exact"}
    return {"solver": "neumann", "iterations": neumann_iters}


def _run_chunk(
    operator, q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens, l2norm, **how
):
    dtype = q.dtype
    q, k, v = operands(q, k, v)
    g, beta = gates(g, beta, q)
    out, state = operator(
        q,
        k,
        v,
        g,
        beta,
        None if initial_state is None else without_gaps(initial_state),
        state_layout="vk",
        output_final_state=output_final_state,
        cu_seqlens=_inside(cu_seqlens, q),
        scale=scale,
        use_qk_l2norm=l2norm,
        **how,
    )
    return out.to(dtype), state if output_final_state else None


def _check_pack(B: int, cu_seqlens: Tensor | None) -> None:
    if cu_seqlens is not None and B != 1:
        raise ValueError(f"When cu_seqlens is used, expected batch size B=1, got {B}.")


def _check_states(initial_state: Tensor | None, B: int, cu_seqlens: Tensor | None) -> None:
    N = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if initial_state is not None and initial_state.shape[0] != N:
        raise ValueError(
            "The number of initial states is expected to equal the number of input sequences "
            f"({N}), got {initial_state.shape[0]}."
        )


def _inside(cu_seqlens: Tensor | None, q: Tensor) -> Tensor | None:
    """On q's device, and no further than the tokens."""
    return None if cu_seqlens is None else cu_seqlens.to(q.device).clamp(max=q.shape[1])


def hpu_fused_recurrent_gated_delta_rule(
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
) -> tuple[Tensor, Tensor]:
    """Decode, any number of tokens a sequence. Shapes as in hpu_chunk_gated_delta_rule; beta absent
    is 1.

    initial_state is a pool [slots,HV,V,K], of which ssm_state_indices [N] names the slots (absent:
    slot n); it is updated in place and returned, or a copy with inplace_final_state=False. A negative
    index is padding: its rows of out are zero and no slot is touched. [N,M] indices take the state
    after token t in column t, and num_accepted_tokens [N] says in which column to start.

    Returns out [B,T,HV,V] in v's dtype, and the pool."""
    return _recurrent(
        ops.recurrent_, q, k, v, g, beta, scale, initial_state, inplace_final_state, cu_seqlens,
        ssm_state_indices, num_accepted_tokens, use_qk_l2norm_in_kernel,
    )  # fmt: skip


def _recurrent_general_path(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    inplace_final_state: bool,
    cu_seqlens: Tensor | None,
    ssm_state_indices: Tensor | None,
    use_qk_l2norm_in_kernel: bool,
    B: int,
    T: int,
    H: int,
    HV: int,
    Kdim: int,
    Vdim: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """hpu_fused_recurrent_gated_delta_rule by tensor operations."""
    return _recurrent(
        staged.recurrent_, q, k, v, g, beta, scale, initial_state, inplace_final_state, cu_seqlens,
        ssm_state_indices, None, use_qk_l2norm_in_kernel,
    )  # fmt: skip


def _recurrent(
    operator, q, k, v, g, beta, scale, initial_state, inplace_final_state, cu_seqlens, indices,
    num_accepted, l2norm,
):  # fmt: skip
    HV, dtype = v.shape[2], v.dtype
    check_heads(q.shape[2], HV, "hpu_fused_recurrent_gated_delta_rule")
    _check_pack(q.shape[0], cu_seqlens)
    N = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    q, k, v = operands(q, k, v)
    g, beta = gates(g, beta, q)
    if initial_state is None:
        pool = q.new_zeros(N, HV, v.shape[-1], q.shape[-1], dtype=torch.float32)
    else:
        pool = initial_state if inplace_final_state else initial_state.clone()
    state = without_gaps(pool)
    options = {
        "state_layout": "vk",
        "cu_seqlens": _inside(cu_seqlens, q),
        "scale": scale,
        "use_qk_l2norm": l2norm,
        "compute": "float32",
    }

    def run(state: Tensor, **slots) -> Tensor:
        return operator(q, k, v, g, beta, state, **slots, **options)

    if indices is None:
        if num_accepted is not None:
            raise ValueError("num_accepted_tokens is given, expected ssm_state_indices with it")
        out = run(state[:N])
    elif indices.ndim == 2:
        if num_accepted is None:
            slots = {"initial_state_indices": indices[:, 0], "final_state_indices": indices}
        else:
            slots = {"initial_state_indices": indices, "num_accepted": num_accepted}
        out = run(state, **slots)
    else:
        if num_accepted is not None:
            raise ValueError(
                f"num_accepted_tokens is given, expected ssm_state_indices [N,M] with it, got "
                f"{list(indices.shape)}"
            )
        # Sequences that name one slot run one after the other.
        out = sum(run(state, initial_state_indices=turn) for turn in _turns(indices, N))
    if state is not pool:
        pool.copy_(state)
    return out.to(dtype), pool


def _turns(indices: Tensor, N: int) -> list[Tensor]:
    """[N] indices in which every slot occurs once, the others being padding; one of them unless a
    slot occurs twice, which is looked at where that costs no wait. Rows without an index are
    padding."""
    indices = indices.reshape(-1)[:N]
    if indices.shape[0] < N:
        indices = torch.nn.functional.pad(indices, (0, N - indices.shape[0]), value=-1)
    slots = Check("hpu_fused_recurrent_gated_delta_rule").values(indices)
    seen, turn = {}, []
    for slot in slots or ():
        turn.append(seen.get(slot, 0) if slot >= 0 else 0)
        seen[slot] = turn[-1] + 1
    if max(turn, default=0) == 0:
        return [indices]
    turn = torch.tensor(turn)
    return [torch.where(turn == i, indices, -1) for i in range(int(turn.max()) + 1)]
