"""What the operators give back, without computing it: for the meta device, torch.compile and
torch.export.

Shapes and dtypes alone; whether the arguments fit together is checked when a kernel runs. A tensor
on another device is refused here, since a call with one on the meta device comes here whatever the
others are on.
"""

import torch

from ._autograd import refuse_gradients
from ._library import IN_PLACE


def _same_device(name, first, **others):
    for argument, tensor in others.items():
        if tensor is not None and tensor.device != first.device:
            raise RuntimeError(
                f"gdn.{name}: {argument} is on {tensor.device}, expected {first.device}"
            )


def _tensors(kwargs):
    return {name: value for name, value in kwargs.items() if isinstance(value, torch.Tensor)}


def _out(q, v):
    return q.new_empty(v.shape)


def _absent(like, dtype=torch.float32):
    return like.new_empty((0,), dtype=dtype)


def _sequences(rows, cu_seqlens):
    return rows.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _final_state(rows, cu_seqlens, initial_state, shape):
    if initial_state is not None:
        shape = initial_state.shape[1:]
    dtype = torch.float32 if initial_state is None else initial_state.dtype
    return rows.new_empty((_sequences(rows, cu_seqlens), *shape), dtype=dtype)


def _delta_rule(name):
    def fake(
        q,
        k,
        v,
        g,
        beta,
        initial_state=None,
        *,
        state_layout,
        output_final_state=False,
        cu_seqlens=None,
        **rest,
    ):
        _same_device(
            name,
            q,
            k=k,
            v=v,
            g=g,
            beta=beta,
            initial_state=initial_state,
            cu_seqlens=cu_seqlens,
            **_tensors(rest),
        )
        if not output_final_state:
            return _out(q, v), _absent(q)
        dims = (v.shape[3], q.shape[3]) if state_layout == "vk" else (q.shape[3], v.shape[3])
        return _out(q, v), _final_state(q, cu_seqlens, initial_state, (v.shape[2], *dims))

    return fake


def _delta_rule_in_place(name):
    def fake(q, k, v, g, beta, state, *args, state_layout, **rest):
        _same_device(name, q, k=k, v=v, g=g, beta=beta, state=state, **_tensors(rest))
        refuse_gradients(name, (q, k, v, g, beta, state, *_tensors(rest).values()))
        return _out(q, v)

    return fake


def _replay_commit(state, num_accepted, record_k, record_v, record_g, *, state_layout, **rest):
    others = dict(
        num_accepted=num_accepted, record_k=record_k, record_v=record_v, record_g=record_g
    )
    _same_device("replay_commit", state, **others, **_tensors(rest))
    refuse_gradients("replay_commit_", (state, record_k, record_v, record_g))


def _gating(a, A_log, dt_bias=None, b=None, *, beta_dtype=None, **rest):
    _same_device("gating", a, A_log=A_log, dt_bias=dt_bias, b=b)
    beta_dtype = torch.float32 if beta_dtype is None else beta_dtype
    beta = _absent(a, beta_dtype) if b is None else b.new_empty(b.shape, dtype=beta_dtype)
    return a.new_empty(a.shape, dtype=torch.float32), beta


def _l2norm(x, **rest):
    return x.new_empty(x.shape)


def _rms_norm_gated(x, z, weight, **rest):
    _same_device("rms_norm_gated", x, z=z, weight=weight)
    return x.new_empty(x.shape)


def _causal_conv1d(
    x, weight, bias=None, initial_state=None, *, output_final_state=False, cu_seqlens=None, **rest
):
    others = dict(weight=weight, bias=bias, initial_state=initial_state, cu_seqlens=cu_seqlens)
    _same_device("causal_conv1d", x, **others, **_tensors(rest))
    if not output_final_state:
        return x.new_empty(x.shape), _absent(x)
    return x.new_empty(x.shape), _final_state(
        x, cu_seqlens, initial_state, (x.shape[2], weight.shape[1] - 1)
    )


def _causal_conv1d_in_place(x, weight, bias, state, **rest):
    _same_device("causal_conv1d", x, weight=weight, bias=bias, state=state, **_tensors(rest))
    refuse_gradients("causal_conv1d_", (x, weight, bias, state))
    return x.new_empty(x.shape)


def _solve_tril(lower, *, output_residual=False, **rest):
    residual = (
        lower.new_empty(lower.shape[:-2], dtype=torch.float32)
        if output_residual
        else _absent(lower)
    )
    return lower.new_empty(lower.shape), residual


FAKES = {
    "chunk": _delta_rule("chunk"),
    "chunk_": _delta_rule_in_place("chunk_"),
    "recurrent": _delta_rule("recurrent"),
    "recurrent_": _delta_rule_in_place("recurrent_"),
    "replay_verify_": _delta_rule_in_place("replay_verify_"),
    "replay_commit_": _replay_commit,
    "gating": _gating,
    "l2norm": _l2norm,
    "rms_norm_gated": _rms_norm_gated,
    "causal_conv1d": _causal_conv1d,
    "causal_conv1d_": _causal_conv1d_in_place,
    "solve_tril": _solve_tril,
}
assert set(IN_PLACE) <= set(FAKES)


def register():
    for name, fake in FAKES.items():
        torch.library.register_fake(f"gdn::{name}", fake)
