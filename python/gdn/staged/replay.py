"""Speculative decode with records in place of a state per token. A record is what a token wrote:
its normalised k, v_new and g. Folding it into a state, S <- exp(g) S + v_new k^T, needs nothing
else.
"""

import torch
from torch import Tensor

from .call import Call
from .check import LAYOUTS, Check, lengths_of
from .check_slots import check_slots
from .l2norm import l2norm_f32
from .preprocess import repeat_heads
from .recurrent import run
from .states import StatePool, widen
from .without_gradient import in_place


@in_place
def replay_verify_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor | None,
    state: Tensor,
    num_accepted: Tensor,
    record_k: Tensor,
    record_v: Tensor,
    record_g: Tensor,
    *,
    state_layout: str,
    cu_seqlens: Tensor | None = None,
    state_indices: Tensor | None = None,
    max_length: int | None = None,
    **options,
) -> Tensor:
    """torch.ops.gdn.replay_verify_: folds the accepted records into the states, which are written
    back, then runs the tokens on a copy of them and writes their records. Nothing waits for the
    device: no sequence is longer than there are records."""
    check = Check("gdn.replay_verify_")
    check.tensor("q", q, ["B", "T", "H", "K"])
    check.tensor("record_k", record_k, [*state.shape[:1], "M", *q.shape[2:]])
    M = record_k.shape[1]
    longest = max(lengths_of(check, cu_seqlens, *q.shape[:2]) or [0])
    if longest > M:
        expected = f"at least {longest}, the tokens of the longest sequence"
        check.fail("record_k", f"has M = {M}", expected)
    most = min(M, q.shape[1])
    max_length = most if max_length is None else min(most, max_length)
    call = Call(
        "gdn.replay_verify_", q, k, v, g, beta, state, state_layout, in_place=True,
        cu_seqlens=cu_seqlens, initial_state_indices=state_indices, max_length=max_length,
        **options,
    )  # fmt: skip
    pools = _records(
        check, call.count(), state, num_accepted, (record_k, record_v, record_g), q.shape[2:],
        v.shape[2:], state_indices, call.null_slot,
    )  # fmt: skip

    initial, skipped = call.initial()
    folded = _fold(initial, skipped, pools, num_accepted)
    call.store(folded, skipped)
    out, v_new, _, _ = run(call, (folded, skipped))

    table = call.table(1)
    lengths = table.lengths(q.device)
    if call.use_qk_l2norm:
        k = l2norm_f32(k, call.l2norm_eps)
    k, g = (table.split(x) for x in (k, call.gates()[0]))
    for t in range(table.steps):
        record = table.at(k, t)[:, 0], v_new[:, t], table.at(g, t)[:, 0]
        dropped = t >= lengths if skipped is None else skipped | (t >= lengths)
        for pool, part in zip(pools, record):
            pool.at_column(t).write(part, dropped)
    return out


@in_place
def replay_commit_(
    state: Tensor,
    num_accepted: Tensor,
    record_k: Tensor,
    record_v: Tensor,
    record_g: Tensor,
    *,
    state_layout: str,
    state_indices: Tensor | None = None,
    null_slot: int | None = None,
    force_kernel: str | None = None,
) -> None:
    """torch.ops.gdn.replay_commit_: folds the accepted records into the states."""
    check = Check("gdn.replay_commit_")
    check.one_of("state_layout", state_layout, LAYOUTS)
    check.shape("record_k", record_k, ["slots", "M", "H", "K"])
    check.shape("record_v", record_v, ["slots", "M", "HV", "V"])
    check.shape("num_accepted", num_accepted, ["N"])
    H, K = record_k.shape[2:]
    HV, V = record_v.shape[2:]
    N = num_accepted.shape[0]
    slots = N if state_indices is None else "slots"
    check.tensor("state", state, [slots, HV, V, K] if state_layout == "vk" else [slots, HV, K, V])
    check_slots(check, N, state, None, True, state_indices, None, None, None, null_slot)
    pools = _records(
        check, N, state, num_accepted, (record_k, record_v, record_g), (H, K), (HV, V),
        state_indices, null_slot,
    )  # fmt: skip
    pool = StatePool(state, N, True, state_indices, None, None, None, null_slot)
    stored, skipped = pool.read()
    turned = state_layout == "kv"
    folded = _fold((stored.mT if turned else stored).float(), skipped, pools, num_accepted)
    pool.write(folded.mT if turned else folded, skipped)


def _records(
    check: Check, N, state, num_accepted, records, heads, value_heads, indices, null_slot
) -> list[StatePool]:
    slots, M = state.shape[0], records[0].shape[1]
    check.tensor("record_k", records[0], [slots, "M", *heads])
    check.tensor("record_v", records[1], [slots, M, *value_heads])
    check.tensor("record_g", records[2], [slots, M, value_heads[0]], (torch.float32,))
    check.tensor("num_accepted", num_accepted, [N], (torch.int32, torch.int64))
    accepted, named = check.values(num_accepted), check.values(indices)
    for n, value in enumerate(accepted or []):
        padding = named is not None and (named[n] < 0 or named[n] == null_slot)
        if not padding and not 0 <= value <= M:
            check.fail(f"num_accepted[{n}]", f"is {value}", f"0 to {M}", IndexError)
    return [StatePool(x, N, True, indices, None, None, None, null_slot) for x in records]


def _fold(
    state: Tensor, skipped: Tensor | None, pools: list[StatePool], num_accepted: Tensor
) -> Tensor:
    """state: float32 [N,HV,V,K], with the first num_accepted records of each sequence folded in."""
    k, v_new, g = (pool.read()[0].float() for pool in pools)
    k = repeat_heads(k, v_new.shape[2])
    for t in range(k.shape[1]):
        decayed = torch.exp(g[:, t])[..., None, None] * state
        folded = torch.addcmul(decayed, v_new[:, t].unsqueeze(-1), k[:, t].unsqueeze(-2))
        # Selected, for what lies past the accepted records may be anything.
        state = torch.where(widen(t < num_accepted, state), folded, state)
    return state
