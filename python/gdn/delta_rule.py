"""The delta rule with flash-linear-attention's signatures and defaults."""

import torch

from . import ops
from ._arguments import (
    as_float32,
    as_like_or_float32,
    gate_as_float32,
    last_contiguous,
    require_tensors,
    unsupported,
)


def _run(
    function,
    operator,
    q,
    k,
    v,
    g,
    beta,
    scale,
    initial_state,
    output_final_state,
    use_qk_l2norm,
    use_gate,
    A_log,
    dt_bias,
    use_beta_sigmoid,
    allow_neg_eigval,
    state_v_first,
    cu_seqlens,
    **options,
):
    require_tensors(
        function,
        ("g", "beta", "initial_state"),
        q=q,
        k=k,
        v=v,
        g=g,
        beta=beta,
        initial_state=initial_state,
    )
    if allow_neg_eigval and not use_beta_sigmoid:
        raise ValueError(
            f"gdn.{function}: allow_neg_eigval is given, expected use_beta_sigmoid_in_kernel too"
        )
    if use_gate:
        if A_log is None:
            raise ValueError(
                f"gdn.{function}: A_log is absent, expected it with use_gate_in_kernel"
            )
        options.update(A_log=A_log, a=as_like_or_float32(g, q), dt_bias=dt_bias)
        g = None
    else:
        for name, given in (("A_log", A_log), ("dt_bias", dt_bias)):
            if given is not None:
                raise ValueError(
                    f"gdn.{function}: {name} is given, expected use_gate_in_kernel too"
                )
        g = gate_as_float32(function, g)
    if beta is not None:
        beta = as_like_or_float32(beta, q)
    if use_beta_sigmoid:
        options["b"] = beta
        beta = None
    if initial_state is not None:
        initial_state = as_float32(initial_state)
        if not initial_state.is_contiguous():
            initial_state = initial_state.contiguous()
    out, final_state = operator(
        last_contiguous(q),
        last_contiguous(k),
        last_contiguous(v),
        g,
        beta,
        initial_state,
        state_layout="vk" if state_v_first else "kv",
        output_final_state=bool(output_final_state),
        scale=scale,
        use_qk_l2norm=use_qk_l2norm,
        allow_neg_eigval=allow_neg_eigval,
        cu_seqlens=cu_seqlens,
        **options,
    )
    return out, final_state if output_final_state else None


def chunk_gated_delta_rule(
    q,
    k,
    v,
    g,
    beta,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    chunk_indices=None,
    cp_context=None,
    *,
    use_gate_in_kernel=False,
    A_log=None,
    dt_bias=None,
    chunk_size=64,
    context_split="auto",
):
    """The gated delta rule over many tokens (prefill), in its chunked form.

    Per value head, with a state S that starts as initial_state or zero:

        S     <- exp(g_t) S
        v_new <- beta_t (v_t - S k_t)
        S     <- S + v_new k_t^T
        o_t    = scale * S q_t

    B is the batch, T the tokens, N the sequences (B, or len(cu_seqlens) - 1), H the q/k heads, HV
    the value heads (a multiple of H), K and V the head dimensions, 1 to 256.

    Args:
        q, k: float32, bfloat16 or float16 [B,T,H,K].
        v: [B,T,HV,V], dtype of q.
        g: log-decay, float [B,T,HV]; with use_gate_in_kernel what the decay is computed from,
            -exp(A_log) * softplus(g + dt_bias).
        beta: write strength, float [B,T,HV]; with use_beta_sigmoid_in_kernel its logits. None: 1.
        scale: K ** -0.5 unless given.
        initial_state: float [N,HV,K,V], or [N,HV,V,K] with state_v_first.
        use_qk_l2norm_in_kernel: q and k are divided by sqrt(sum of squares + 1e-6).
        allow_neg_eigval: doubles sigmoid(beta); only with use_beta_sigmoid_in_kernel.
        cu_seqlens: int32 or int64 [N+1], the sequences' starts in a pack with B = 1. Lengths may
            differ, and be zero.
        cu_seqlens_cpu, chunk_indices: what flash-linear-attention derives from cu_seqlens; not
            needed, not read.
        cp_context: not supported.
        A_log, dt_bias: float [HV], only with use_gate_in_kernel; dt_bias may be None.
        chunk_size: at least 1. Steers the staged pipeline and the reference alone.
        context_split: whether a GPU walks a long sequence in segments side by side, which it joins
            exactly but for rounding. "auto": where that is faster for the whole call, so that the
            bits of a sequence may depend on the batch that it is in. Where they must not: "off",
            never; or "fixed", by the sequence alone, which keeps some of the speed where value
            heads are few and may want more memory. The CPU and the staged pipeline have no use for it.

    Returns:
        o [B,T,HV,V], dtype of q; and the final state, float32 in the layout of initial_state, or
        None without output_final_state.

    Raises:
        TypeError: a dtype. ValueError: a shape, a device, an option. IndexError: a value in
            cu_seqlens.
        NotImplementedError: an argument that is not supported; or in the backward.
    """
    if cp_context is not None:
        unsupported("chunk_gated_delta_rule", cp_context=cp_context)
    return _run(
        "chunk_gated_delta_rule",
        ops.chunk,
        q,
        k,
        v,
        g,
        beta,
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        use_gate_in_kernel,
        A_log,
        dt_bias,
        use_beta_sigmoid_in_kernel,
        allow_neg_eigval,
        state_v_first,
        cu_seqlens,
        chunk_size=chunk_size,
        context_split=context_split,
    )


def fused_recurrent_gated_delta_rule(
    q,
    k,
    v,
    g=None,
    gk=None,
    gv=None,
    beta=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_gate_in_kernel=False,
    A_log=None,
    dt_bias=None,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    state_v_first=False,
    cu_seqlens=None,
):
    """The gated delta rule token by token (decode), for any number of tokens.

    Arguments, results and errors are those of chunk_gated_delta_rule, but for their order: beta is
    the seventh, so name it. g None is no decay; gk and gv, decays of single channels, are not
    supported.
    """
    for name, given in (("gk", gk), ("gv", gv)):
        if given is not None:
            raise NotImplementedError(
                f"gdn.fused_recurrent_gated_delta_rule: {name} is given, which is not supported "
                "(beta is the seventh argument: name it)"
            )
    if g is None and not use_gate_in_kernel:
        require_tensors("fused_recurrent_gated_delta_rule", v=v)
        g = torch.zeros(v.shape[:3], dtype=torch.float32, device=v.device)
    return _run(
        "fused_recurrent_gated_delta_rule",
        ops.recurrent,
        q,
        k,
        v,
        g,
        beta,
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        use_gate_in_kernel,
        A_log,
        dt_bias,
        use_beta_sigmoid_in_kernel,
        allow_neg_eigval,
        state_v_first,
        cu_seqlens,
    )
