"""A call of every operator, and modules made of several, for the tests of what PyTorch does with
them."""

import inputs
import torch

import gdn


def samples():
    """name: (operator, arguments, keywords), of every operator and every kind of optional
    argument."""
    torch.manual_seed(0)
    call = inputs.delta_rule(T=7)
    packed = inputs.delta_rule(lengths=[3, 0, 66], layout="kv")
    gates = dict(
        A_log=torch.randn(4), a=torch.randn(2, 7, 4), dt_bias=torch.randn(4), b=torch.randn(2, 7, 4)
    )
    pool = torch.randn(6, *call.state.shape[1:])
    slots = torch.tensor([4, 2])
    records = torch.zeros(6, 8, 2, 32), torch.zeros(6, 8, 4, 48), torch.zeros(6, 8, 4)
    accepted = torch.tensor([0, 3])
    x, weight = torch.randn(2, 7, 12), torch.randn(12, 4)
    tokens = call.tokens
    for name in ("chunk", "recurrent"):
        yield name, name, tokens, call.options
        final = dict(output_final_state=True)
        yield f"{name} to a state", name, (*tokens, call.state), final | call.options
        yield f"{name} packed", name, (*packed.tokens, packed.state), final | packed.options
        yield (
            f"{name} with gates",
            name,
            (*tokens[:3], None, None, pool),
            final
            | gates
            | call.options
            | dict(
                initial_state_indices=slots,
                null_slot=0,
                has_initial_state=torch.tensor([True, False]),
            ),
        )
        yield (
            f"{name}_",
            f"{name}_",
            (*tokens, pool),
            dict(initial_state_indices=slots) | call.options,
        )
        several = dict(
            initial_state_indices=torch.tensor([[1, 2, 3, 3, 3, 3, 3]] * 2) * -1, num_accepted=slots
        )
        yield f"{name}_ with a state a token", f"{name}_", (*tokens, pool), several | call.options
    yield (
        "chunk in fixed segments",
        "chunk",
        (*packed.tokens, packed.state),
        dict(context_split="fixed", output_final_state=True) | packed.options,
    )
    checkpoints = dict(
        context_split="off",
        checkpoint_every=64,
        checkpoints=torch.zeros(1, 4, 32, 48),
        checkpoint_cu=torch.tensor([0, 0, 0, 1]),
    )
    yield (
        "chunk_ with checkpoints",
        "chunk_",
        (*packed.tokens, packed.state),
        checkpoints | packed.options,
    )
    yield (
        "replay_verify_",
        "replay_verify_",
        (*tokens, pool, accepted, *records),
        dict(state_indices=slots) | call.options,
    )
    yield (
        "replay_commit_",
        "replay_commit_",
        (pool, accepted, *records),
        dict(state_layout="vk", state_indices=slots),
    )
    yield "gating", "gating", (gates["a"], gates["A_log"]), {}
    yield (
        "gating with b",
        "gating",
        (gates["a"], gates["A_log"], gates["dt_bias"], gates["b"]),
        dict(beta_dtype=torch.bfloat16),
    )
    yield "l2norm", "l2norm", (x,), {}
    yield "rms_norm_gated", "rms_norm_gated", (x, x + 1, torch.randn(12)), {}
    yield "causal_conv1d", "causal_conv1d", (x, weight), dict(output_final_state=True, silu=True)
    yield (
        "causal_conv1d packed",
        "causal_conv1d",
        (x[:1], weight, weight[:, 0], torch.randn(2, 12, 5)),
        dict(output_final_state=True, cu_seqlens=torch.tensor([0, 3, 7])),
    )
    yield (
        "causal_conv1d_",
        "causal_conv1d_",
        (x, weight, None, torch.randn(6, 12, 3)),
        dict(initial_state_indices=slots),
    )
    yield "solve_tril", "solve_tril", (torch.randn(2, 8, 8),), {}
    yield (
        "solve_tril with a residual",
        "solve_tril",
        (torch.randn(2, 3, 8, 8),),
        dict(output_residual=True),
    )


SAMPLES = {name: sample for name, *sample in samples()}


class Layer(torch.nn.Module):
    """The operators of a layer, one after the other: prefill to a state, then decode in place."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(24, 4), requires_grad=False)
        self.norm = torch.nn.Parameter(torch.randn(8), requires_grad=False)
        self.A_log = torch.nn.Parameter(torch.randn(2), requires_grad=False)

    def forward(self, x, a, pool, slots):
        B, T = x.shape[:2]
        x = gdn.causal_conv1d_fn(x.transpose(1, 2), self.weight, activation="silu").transpose(1, 2)
        q, k, v = (y.unflatten(-1, (-1, 8)) for y in x.split([8, 0 + 8, 8], dim=-1))
        v = v.repeat(1, 1, 2, 1)
        out, state = gdn.chunk_gated_delta_rule(
            q,
            k,
            v,
            a,
            a,
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
            use_gate_in_kernel=True,
            A_log=self.A_log,
            use_beta_sigmoid_in_kernel=True,
        )
        decoded = gdn.ops.recurrent_(
            q[:, -1:],
            k[:, -1:],
            v[:, -1:],
            -a[:, -1:].exp(),
            None,
            pool,
            state_layout="kv",
            initial_state_indices=slots,
        )
        return gdn.rms_norm_gated(gdn.l2norm(out), out, self.norm), state, decoded


def layer_inputs(B, T):
    return (
        torch.randn(B, T, 24),
        torch.randn(B, T, 2),
        torch.randn(9, 2, 8, 8),
        torch.randperm(9)[:B],
    )


class Packed(torch.nn.Module):
    """Sequences of any number and lengths, on two pools whose slots lie side by side in one
    tensor: views of an argument are read, written, and written again."""

    def forward(self, q, k, v, g, beta, cu_seqlens, pools, slots):
        tokens = (q, k, v, g, beta)
        options = dict(state_layout="vk", cu_seqlens=cu_seqlens, initial_state_indices=slots)
        first = pools[:, 0]
        out, state = gdn.ops.chunk(
            *tokens, first, output_final_state=True, use_qk_l2norm=True, **options
        )
        return (
            out,
            state,
            gdn.ops.chunk_(*tokens, first, **options),
            gdn.ops.recurrent_(*tokens, pools[:, 1], **options),
            gdn.ops.chunk_(*tokens, first, **options),
            pools.sum(),
        )


def packed_inputs(*lengths):
    call = inputs.delta_rule(lengths=list(lengths))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    pools = torch.randn(9, 2, *call.state.shape[1:])
    return (*call.tokens, cu_seqlens, pools, torch.randperm(9)[: len(lengths)])
