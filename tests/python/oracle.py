"""The definition, token by token in float64, sequence by sequence and head by head in plain
PyTorch. It shares no code with the library, which is the point of it."""

import torch


def l2norm(x, eps=1e-6):
    x = x.double()
    return x / (x.square().sum(-1, keepdim=True) + eps).sqrt()


def gates(A_log, a, dt_bias, b, softplus_beta=1.0, softplus_threshold=20.0):
    x = a.double() + dt_bias.double()
    scaled = softplus_beta * x
    softplus = torch.where(
        scaled <= softplus_threshold,
        torch.log1p(torch.exp(scaled.clamp(max=softplus_threshold))) / softplus_beta,
        x,
    )
    return -A_log.double().exp() * softplus, b.double().sigmoid()


def ranges(q, cu_seqlens=None):
    """(row, begin, end) of every sequence."""
    B, T = q.shape[:2]
    if cu_seqlens is None:
        return [(n, 0, T) for n in range(B)]
    cu = cu_seqlens.tolist()
    return [(0, begin, end) for begin, end in zip(cu, cu[1:])]


def recurrence(q, k, v, g, beta, states, scale, cu_seqlens=None, use_qk_l2norm=False):
    """states: [N,HV,V,K]. Returns out [B,T,HV,V], the last states, and the states after every
    token, a list of [T_n,HV,V,K]; float64."""
    if use_qk_l2norm:
        q, k = l2norm(q), l2norm(k)
    HV = v.shape[2]
    repeat = HV // q.shape[2]
    q, k = (x.double().repeat_interleave(repeat, dim=2) for x in (q, k))
    v, g, beta = v.double(), g.double(), beta.double()
    out = torch.zeros(v.shape, dtype=torch.float64)
    last, after = states.double().clone(), []
    for n, (row, begin, end) in enumerate(ranges(q, cu_seqlens)):
        S, each = last[n], []
        for t in range(begin, end):
            k_t, q_t = k[row, t], q[row, t]
            S = g[row, t].exp()[:, None, None] * S
            v_new = beta[row, t][:, None] * (v[row, t] - torch.einsum("hvk,hk->hv", S, k_t))
            S = S + torch.einsum("hv,hk->hvk", v_new, k_t)
            out[row, t] = scale * torch.einsum("hvk,hk->hv", S, q_t)
            each.append(S)
        last[n] = S
        after.append(torch.stack(each) if each else S.new_zeros(0, *S.shape))
    return out, last, after


def causal_conv1d(x, weight, bias, histories, silu, cu_seqlens=None):
    """histories: [N,D,S]. Returns y [B,T,D] and the last S inputs of every sequence, float64."""
    W, S = weight.shape[1], histories.shape[2]
    y, last = torch.zeros(x.shape, dtype=torch.float64), []
    for n, (row, begin, end) in enumerate(ranges(x, cu_seqlens)):
        inputs = torch.cat([histories[n].double(), x[row, begin:end].double().T], dim=1)
        for t in range(begin, end):
            window = inputs[:, S + t - begin - W + 1 : S + t - begin + 1]
            total = (window * weight.double()).sum(1)
            if bias is not None:
                total = total + bias.double()
            y[row, t] = total * total.sigmoid() if silu else total
        last.append(inputs[:, inputs.shape[1] - S :])
    return y, torch.stack(last) if last else histories.double()
