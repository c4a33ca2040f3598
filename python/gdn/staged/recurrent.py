"""The recurrence, token by token, all sequences at once:

    S     <- exp(g_t) S
    v_new <- beta_t (v_t - S k_t)
    S     <- S + v_new k_t^T
    o_t    = scale S q_t
"""

import torch
from torch import Tensor

from .call import Call
from .l2norm import l2norm_f32
from .preprocess import repeat_heads
from .without_gradient import in_place, without_gradient


def recurrent_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """A token of every sequence: q, k [...,K], v [...,V], g, beta [...], state [...,V,K]. Returns
    out [...,V] and the new state."""
    state = torch.exp(g)[..., None, None] * state
    v_new = beta.unsqueeze(-1) * (v - (state @ k.unsqueeze(-1)).squeeze(-1))
    state = torch.addcmul(state, v_new.unsqueeze(-1), k.unsqueeze(-2))
    return scale * (state @ q.unsqueeze(-1)).squeeze(-1), state


@without_gradient
def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    beta: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    state_layout: str,
    output_final_state: bool = False,
    **options,
) -> tuple[Tensor, Tensor]:
    """torch.ops.gdn.recurrent. `max_length`: see `chunk`."""
    call = Call("gdn.recurrent", q, k, v, g, beta, initial_state, state_layout, **options)
    out, state, skipped = _run(call)
    return out, call.final(state, skipped) if output_final_state else q.new_empty(0)


@in_place
def recurrent_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor | None,
    state: Tensor,
    *,
    state_layout: str,
    **options,
) -> Tensor:
    """torch.ops.gdn.recurrent_. `max_length`: see `chunk`."""
    call = Call("gdn.recurrent_", q, k, v, g, beta, state, state_layout, in_place=True, **options)
    out, last, skipped = _run(call)
    if not call.pool.writes_every_state:
        call.store(last, skipped)
    return out


def _run(call: Call) -> tuple[Tensor, Tensor, Tensor | None]:
    q, k = call.q, call.k
    if call.use_qk_l2norm:
        q, k = l2norm_f32(q, call.l2norm_eps), l2norm_f32(k, call.l2norm_eps)
    HV = call.v.shape[2]
    g, beta = call.gates()
    beta = torch.ones_like(g) if beta is None else beta

    table = call.table(1)
    q, k, v, g, beta = (
        table.split(x.float())
        for x in (repeat_heads(q, HV), repeat_heads(k, HV), call.v, g, beta)
    )
    lengths = table.lengths(q.device) if call.pool.writes_every_state else None
    state, skipped = call.initial()
    outs = []
    for t in range(table.steps):
        token = (table.at(x, t)[:, 0] for x in (q, k, v, g, beta))
        out, state = recurrent_step(*token, state, call.scale)
        outs.append(out)
        if call.pool.writes_every_state:
            call.store(state, skipped, t, lengths)
    if outs:
        out = torch.stack(outs, dim=1).unsqueeze(2)
    else:
        out = v.new_zeros(state.shape[0], 0, 1, *v.shape[2:])
    return call.output(out, table, skipped), state, skipped
