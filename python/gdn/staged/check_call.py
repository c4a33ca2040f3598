"""What can be wrong with a call of chunk, recurrent or replay_verify."""

import torch

from .check import COMPUTES, LARGEST, LAYOUTS, Check, lengths_of
from .check_slots import check_slots, slots_of


def check_call(call) -> None:
    """A call of chunk or recurrent (call.py)."""
    check = Check(call.name)
    q, v = call.q, call.v
    check.one_of("state_layout", call.state_layout, LAYOUTS)
    check.one_of("compute", call.compute, COMPUTES)
    if call.force_kernel is not None:
        check.fail("force_kernel", f'is "{call.force_kernel}"', f"none for tensors on {q.device}")
    check.tensor("q", q, ["B", "T", "H", "K"])
    B, T, H, K = q.shape
    check.tensor("k", call.k, [B, T, H, K], (q.dtype,), "q")
    check.tensor("v", v, [B, T, "HV", "V"], (q.dtype,), "q")
    HV, V = v.shape[2:]
    if H < 1:
        check.fail("q", "has H = 0", "at least 1")
    if HV < 1 or HV % H:
        check.fail("v", f"has HV = {HV}", f"a positive multiple of H = {H}")
    _check_gates(check, call, [B, T, HV], (torch.float32, q.dtype))
    if call.scale is not None and not abs(call.scale) <= LARGEST:
        check.fail("scale", f"is {call.scale:g}", "a finite float32")
    check.not_negative("l2norm_eps", call.l2norm_eps)
    check.sequences(call.cu_seqlens, B, T, call.max_length)
    N = call.count()
    slots = slots_of(check, call.state, call.initial_state_indices, N)
    state = [slots, HV, V, K] if call.state_layout == "vk" else [slots, HV, K, V]
    check.tensor("initial_state", call.state, state)
    check.same_device(
        call.q, k=call.k, v=call.v, g=call.g, beta=call.beta, A_log=call.A_log, a=call.a,
        dt_bias=call.dt_bias, b=call.b, cu_seqlens=call.cu_seqlens, state=call.state,
        initial_state_indices=call.initial_state_indices,
        final_state_indices=call.final_state_indices,
        has_initial_state=call.has_initial_state, num_accepted=call.num_accepted,
    )  # fmt: skip
    check_slots(
        check,
        N,
        call.state,
        lengths_of(check, call.cu_seqlens, B, T),
        call.in_place,
        call.initial_state_indices,
        call.final_state_indices,
        call.has_initial_state,
        call.num_accepted,
        call.null_slot,
    )


def _check_gates(check: Check, call, shape, dtypes) -> None:
    if call.g is not None:
        for name in ("A_log", "a"):
            if getattr(call, name) is not None:
                check.fail(name, "is given", "g or A_log and a, not both")
        if call.dt_bias is not None:
            check.fail("dt_bias", "is given", "it only with a")
        check.tensor("g", call.g, shape, (torch.float32,))
    else:
        if call.a is None and call.A_log is None:
            check.fail("g", "is absent", "g, or A_log and a")
        if call.A_log is None:
            check.fail("A_log", "is absent", "it with a")
        if call.a is None:
            check.fail("a", "is absent", "it with A_log")
        check.tensor("a", call.a, shape, dtypes)
        check.tensor("A_log", call.A_log, shape[-1:])
        check.tensor("dt_bias", call.dt_bias, shape[-1:])
    check.softplus(call.softplus_beta, call.softplus_threshold)
    if call.beta is not None and call.b is not None:
        check.fail("b", "is given", "beta or b, not both")
    check.tensor("beta", call.beta, shape, dtypes)
    check.tensor("b", call.b, shape, dtypes)
