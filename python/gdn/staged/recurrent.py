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
) -> tuple[Tensor, Tensor, Tensor]:
    """A token of every sequence: q, k [...,K], v [...,V], g, beta [...], state [...,V,K]. Returns
    out and v_new [...,V], and the new state."""
    state = torch.exp(g)[..., None, None] * state
    v_new = beta.unsqueeze(-1) * (v - (state @ k.unsqueeze(-1)).squeeze(-1))
    state = torch.addcmul(state, v_new.unsqueeze(-1), k.unsqueeze(-2))
    return scale * (state @ q.unsqueeze(-1)).squeeze(-1), v_new, state


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
    out, _, state, skipped = run(call)
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
    out, _, last, skipped = run(call)
    if not call.pool.writes_every_state:
        call.store(last, skipped)
    return out


def run(
    call: Call, start: tuple[Tensor, Tensor | None] | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The walk over the tokens: out as the caller's, v_new [N,steps,HV,V], the last states, and
    which sequences are skipped. It starts from `start`, or what call.initial() gives."""
    q, k = call.q, call.k
    if call.use_qk_l2norm:
        q, k = l2norm_f32(q, call.l2norm_eps), l2norm_f32(k, call.l2norm_eps)
    HV = call.v.shape[2]
    g, beta = call.gates()
    beta = torch.ones_like(g) if beta is None else beta

    table = call.table(1)
    q, k, v, g, beta = (
        table.split(x.float()) for x in (repeat_heads(q, HV), repeat_heads(k, HV), call.v, g, beta)
    )
    every = call.in_place and start is None and call.pool.writes_every_state
    lengths = table.lengths(q.device) if every else None
    state, skipped = call.initial() if start is None else start
    outs, v_news = [], []
    for t in range(table.steps):
        token = (table.at(x, t)[:, 0] for x in (q, k, v, g, beta))
        out, v_new, after = recurrent_step(*token, state, call.scale)
        state = table.keep_ended(t, state, after)
        outs.append(out)
        v_news.append(v_new)
        if every:
            call.store(state, skipped, t, lengths)
    if outs:
        out, v_new = torch.stack(outs, dim=1), torch.stack(v_news, dim=1)
    else:
        out = v_new = v.new_zeros(state.shape[0], 0, *v.shape[2:])
    return call.output(out.unsqueeze(2), table, skipped), v_new, state, skipped
