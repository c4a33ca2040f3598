"""The chunked algorithm in plain PyTorch, float32 inside, as the specification that libgdn started from has it: chunks
of 64, with its two switches.

solve    "neumann": X <- X - X strict_lower(L X), 14 times, its default; "exact": forward substitution by rows
phase_b  "optimized": all but two products a chunk before the loop over chunks, its default; "legacy": in the loop

Decode has no switches: it is a peer of its own.
"""

import torch
import torch.nn.functional as F

from .peer import Call
from .work import EPS, HV, SCALE, H

C = 64
NEUMANN_ITERATIONS = 14


def inverse_neumann(L):
    X = torch.eye(C).expand_as(L).clone()
    for _ in range(NEUMANN_ITERATIONS):
        X = X - torch.bmm(X, torch.bmm(L, X).tril(-1))
    return X


def inverse_exact(L):
    X = torch.zeros_like(L)
    X[:, 0, 0] = 1
    for row in range(1, C):
        torch.bmm(L[:, row : row + 1, :row], X[:, :row], out=(x := X.new_empty(X.shape[0], 1, C)))
        X[:, row] = -x[:, 0]
        X[:, row, row] = 1
    return X


def normalised(x):
    x = x.float()
    return x / torch.sqrt(x.square().sum(-1, keepdim=True) + EPS)


def chunks(x):
    """[1,T,HV,...] to [chunks,HV,C,...], the last chunk filled with zeros."""
    x = x[0].float()
    missing = -x.shape[0] % C
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    return x.view(-1, C, *x.shape[1:]).transpose(1, 2).contiguous()


def local(k, v, beta, G, inverse):
    """u = T diag(beta) V, w = T diag(beta exp G) K, T = (I + A)^-1, of all chunks at once."""
    k, v, beta, G = (x.flatten(0, 1) for x in (k, v, beta[..., None], G[..., None]))
    A = (beta * torch.exp(G - G.mT) * torch.bmm(k, k.mT)).tril(-1)
    T = inverse(torch.eye(C) + A)
    return torch.bmm(T, v * beta), torch.bmm(T, k * (beta * G.exp()))


def loop_legacy(q, k, u, w, G, state):
    out = torch.empty_like(u)
    for c in range(q.shape[0]):
        growth = G[c, :, :, None]
        last = growth[:, -1:]
        v_new = u[c] - torch.bmm(w[c], state.mT)
        attention = (torch.bmm(q[c], k[c].mT) * torch.exp(growth - growth.mT)).tril()
        out[c] = SCALE * (torch.bmm(attention, v_new) + growth.exp() * torch.bmm(q[c], state.mT))
        state = last.exp() * state + torch.bmm((v_new * torch.exp(last - growth)).mT, k[c])
    return out, state


def loop_optimized(q, k, u, w, G, state):
    growth = G[..., None]
    last = growth[:, :, -1:]
    attention = (q @ k.mT * torch.exp(growth - growth.mT)).tril()
    out = SCALE * (attention @ u)
    carry = SCALE * (q * growth.exp() - attention @ w)
    decay = torch.exp(last - growth)
    added = k.mT @ (u * decay)  # [K,V]
    kept = last.exp() * torch.eye(k.shape[-1]) - k.mT @ (w * decay)  # [K,K]
    state = state.mT
    for c in range(q.shape[0]):
        out[c] += carry[c] @ state
        state = kept[c] @ state + added[c]
    return out, state.mT.contiguous()


class Chunked:
    def __init__(self, name, inverse, loop):
        self.NAME, self.inverse, self.loop = name, inverse, loop

    def version(self):
        return torch.__version__

    def sequence(self, q, k, v, g, beta, state):
        T, r = q.shape[1], HV // H
        q, k = (chunks(normalised(x).repeat_interleave(r, 2)) for x in (q, k))
        v, beta, G = chunks(v), chunks(beta), chunks(g).cumsum(-1)
        u, w = local(k, v, beta, G, self.inverse)
        out, state = self.loop(q, k, u.view_as(v), w.view_as(k), G, state)
        return out.transpose(1, 2).flatten(0, 1)[:T], state

    def prefill(self, inputs, threads):
        i = inputs
        state = i.initial_state("vk")
        found = [None] * i.work.sequences

        def run(turn):
            for n, (begin, end) in enumerate(i.work.ranges):
                out, final = self.sequence(*(x[:, begin:end] for x in (i.q, i.k, i.v, i.g, i.beta)), state[n])
                found[n] = out.to(i.work.dtype), final

        return Call(run, lambda n: found[n], "a call for each sequence" if i.work.sequences > 1 else "")

    def decode(self, inputs, pool, threads):
        return None


class Recurrent:
    """Decode: states gathered from the pool, one step, scattered back."""

    NAME = "PyTorch, recurrent"

    def version(self):
        return torch.__version__

    def prefill(self, inputs, threads):
        return None

    def decode(self, inputs, pool, threads):
        i, n, r = inputs, inputs.work.sequences, HV // H
        states = pool.view("vk")
        q, k, v, a, b = (x[0] for x in (i.q, i.k, i.v, i.a, i.b))
        turns = i.slots.long().split(n)
        found = [None]

        def run(turn):
            slots = turns[turn % len(turns)]
            g = -i.A_log.exp() * F.softplus(a.float() + i.dt_bias)
            beta = b.float().sigmoid()[..., None]
            qn, kn = (normalised(x).repeat_interleave(r, 1)[..., None] for x in (q, k))
            state = states.index_select(0, slots).float() * g.exp()[..., None, None]
            v_new = beta * (v.float() - (state @ kn)[..., 0])
            state = state + v_new[..., None] * kn.mT
            found[0] = SCALE * (state @ qn)[..., 0]
            states.index_copy_(0, slots, state.to(states.dtype))
            found[0] = found[0].to(i.work.dtype)

        return Call(run, lambda s: (found[0][s], states[i.slots[s]]))


def peers():
    return [
        Chunked("PyTorch, exact, legacy", inverse_exact, loop_legacy),
        Chunked("PyTorch, defaults", inverse_neumann, loop_optimized),
        Recurrent(),
    ]
