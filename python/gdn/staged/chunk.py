"""The chunked form: preprocess, phase A, phase B.

chunks of tokens  ->  A, T, u, w of every chunk  ->  the walk: v_new, out, state
  preprocess.py         phase_a.py, solve_tril.py       phase_b.py
"""

import torch
from torch import Tensor

from .call import Call
from .check import CONTEXT_SPLITS, Check
from .phase_a import phase_a
from .phase_b import Walked, phase_b_legacy, phase_b_optimized
from .preprocess import Chunks, preprocess
from .solve_tril import solve
from .without_gradient import in_place, without_gradient

PHASE_B = {"legacy": phase_b_legacy, "optimized": phase_b_optimized}


@without_gradient
def chunk(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    beta: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    state_layout: str,
    output_final_state: bool = False,
    chunk_size: int = 64,
    context_split: str = "auto",
    solver: str = "exact",
    iterations: int = 14,
    phase_b: str = "legacy",
    **options,
) -> tuple[Tensor, Tensor]:
    """torch.ops.gdn.chunk, and what steers the stages: `solver` ("exact", or "neumann" with
    `iterations`), `phase_b` ("legacy" or "optimized"), and `max_length`, a length that no sequence
    exceeds: with it nothing waits for the device. There is no use for `context_split` here."""
    call = Call("gdn.chunk", q, k, v, g, beta, initial_state, state_layout, **options)
    out, last, skipped = _run(call, chunk_size, context_split, solver, iterations, phase_b)
    return out, call.final(last, skipped) if output_final_state else q.new_empty(0)


@in_place
def chunk_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor | None,
    state: Tensor,
    *,
    state_layout: str,
    chunk_size: int = 64,
    context_split: str = "auto",
    checkpoint_every: int = 0,
    checkpoints: Tensor | None = None,
    checkpoint_cu: Tensor | None = None,
    solver: str = "exact",
    iterations: int = 14,
    phase_b: str = "legacy",
    **options,
) -> Tensor:
    """torch.ops.gdn.chunk_, steered as `chunk` is. Has no checkpoints."""
    if checkpoint_every or checkpoints is not None or checkpoint_cu is not None:
        raise NotImplementedError(
            f"gdn.chunk_: checkpoint_every is {checkpoint_every}, which a device without a kernel "
            "does not support"
        )
    call = Call("gdn.chunk_", q, k, v, g, beta, state, state_layout, in_place=True, **options)
    # The states inside a chunk follow from v_new, which the optimized form does not have.
    if call.pool.writes_every_state:
        phase_b = "legacy"
    out, last, skipped = _run(call, chunk_size, context_split, solver, iterations, phase_b)
    if not call.pool.writes_every_state:
        call.store(last, skipped)
    return out


def _run(
    call: Call, chunk_size: int, context_split: str, solver: str, iterations: int, phase_b: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    check = Check(call.name)
    if chunk_size < 1:
        check.fail("chunk_size", f"is {chunk_size}", "at least 1")
    check.one_of("context_split", context_split, CONTEXT_SPLITS)
    if phase_b not in PHASE_B:
        raise ValueError(f"{call.name}: phase_b is {phase_b!r}, expected one of {list(PHASE_B)}")
    table, dtype = call.table(chunk_size), call.compute_dtype()
    g, beta = call.gates()
    x = preprocess(call.q, call.k, call.v, g, beta, table, call.use_qk_l2norm, call.l2norm_eps)
    a = phase_a(x, lambda A: solve(A, solver, iterations, operator=call.name))
    initial, skipped = call.initial()
    walked = PHASE_B[phase_b](x, a, initial, table, call.scale, dtype)
    if call.pool.writes_every_state:
        _store_every_state(call, x, walked, g, initial, skipped, table)
    return call.output(walked.out.transpose(2, 3), table, skipped), walked.state, skipped


def _store_every_state(
    call: Call,
    x: Chunks,
    walked: Walked,
    g: Tensor,
    state: Tensor,
    skipped: Tensor | None,
    table,
) -> None:
    """S <- exp(g) S + v_new k^T, token by token."""
    decays = torch.exp(table.split(g.float()).transpose(1, 2))
    lengths = table.lengths(state.device)
    for t in range(table.steps * table.chunk_size):
        step, i = divmod(t, table.chunk_size)
        k, decay = (table.at(each, step)[:, :, i] for each in (x.k, decays))
        v_new = walked.v_new[:, step, :, i]
        state = decay[..., None, None] * state + v_new.unsqueeze(-1) * k.unsqueeze(-2)
        call.store(state, skipped, t, lengths)
