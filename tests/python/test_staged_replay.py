"""Replay of the staged operators: records of a step, folded in by the next, are the recurrence."""

import inputs
import oracle
import pytest
import torch
from gdn import staged
from tolerance import assert_close

K, V, M = 32, 16, 4


def make(lengths, seed=0, slots=5, dtype=torch.float32):
    x = inputs.of_kind(seed, T=sum(lengths), N=slots, K=K, V=V, dtype=dtype)
    records = [torch.full((slots, M, *shape), torch.nan) for shape in ((2, K), (4, V), (4,))]
    return x, records, torch.tensor([0, *lengths]).cumsum(0)


def verify(x, pool, accepted, records, cu, **options):
    options = {"state_layout": "vk", **options}
    return staged.replay_verify_(
        *x.tokens,
        pool,
        torch.tensor(accepted),
        *records,
        cu_seqlens=cu,
        use_qk_l2norm=True,
        **options,
    )


@pytest.mark.parametrize("layout", ["vk", "kv"])
def test_two_steps_and_a_commit_are_the_recurrence(layout):
    x, records, cu = make([3, 0, 4])
    pool = x.state.clone() if layout == "vk" else x.state.mT.contiguous()
    slots = torch.tensor([4, 2, 1])
    options = {"state_indices": slots, "state_layout": layout}
    states = x.state[slots]
    out = verify(x, pool, [0, 0, 0], records, cu, **options)
    expected, _, after = oracle.recurrence(*x.tokens, states, K**-0.5, cu, use_qk_l2norm=True)
    assert_close(out, expected)
    stored = pool if layout == "vk" else pool.mT
    assert torch.equal(stored, x.state)

    y, _, cu = make([1, 2, 2], seed=1)
    out = verify(y, pool, [2, 0, 4], records, cu, **options)
    states = torch.stack([after[0][1], states[1].double(), after[2][3]])
    expected, _, after = oracle.recurrence(*y.tokens, states, K**-0.5, cu, use_qk_l2norm=True)
    assert_close(out, expected)
    assert_close(stored[slots], states, state=True)

    staged.replay_commit_(pool, torch.tensor([1, 2, 0]), *records, **options)
    assert_close(stored[slots], torch.stack([after[0][0], after[1][1], states[2]]), state=True)
    assert torch.equal(stored[[0, 3]], x.state[[0, 3]])
    assert all(r[[0, 3]].isnan().all() for r in records)


def test_padding_touches_nothing():
    x, records, cu = make([2, 2])
    pool = x.state.clone()
    out = verify(x, pool, [9, 0], records, cu, state_indices=torch.tensor([3, -1]), null_slot=3)
    assert (out == 0).all() and torch.equal(pool, x.state)
    assert all(r.isnan().all() for r in records)
    staged.replay_commit_(
        pool, torch.tensor([2]), *records, state_layout="vk", state_indices=torch.tensor([-1])
    )
    assert torch.equal(pool, x.state)


def test_the_same_as_the_kernel():
    x, records, cu = make([3, 1, 4], dtype=torch.bfloat16)
    options = {
        "state_layout": "vk",
        "state_indices": torch.tensor([4, 0, 1]),
        "use_qk_l2norm": True,
    }
    results = []
    for ops in (staged, torch.ops.gdn):
        pool, kept = x.state.clone(), [torch.zeros_like(r) for r in records]
        for accepted in ([0, 0, 0], [2, 1, 4]):
            out = ops.replay_verify_(
                *x.tokens, pool, torch.tensor(accepted), *kept, cu_seqlens=cu, **options
            )
        results.append([out, pool, *kept])
    for a, b in zip(*results):
        torch.testing.assert_close(
            a, b, rtol=1e-2 if a.dtype == torch.bfloat16 else 1e-4, atol=1e-5
        )
