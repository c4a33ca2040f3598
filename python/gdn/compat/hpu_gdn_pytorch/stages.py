"""The stages of the chunked form between tensors [S,chunks,C,H,...], tokens before heads, where
gdn.staged has heads before tokens. g is always the sum of log-decays from the chunk's start, in
float32; what digits such a sum has lost (docs/algorithm.md, section 6) cannot be had back, which is
why the public operators do not go through it.
"""

import torch
from torch import Tensor

import gdn.compat.hpu_gdn_pytorch as switches

from ...staged import phase_a as staged_a
from ...staged import phase_b as staged_b
from ...staged.decay import clamp_log_decay, decay_of_sums
from ...staged.phase_b import chunk_step
from ...staged.preprocess import Chunks, repeat_heads
from ...staged.sequences import EqualChunks, PackedChunks
from .parts import _hpu_solve_lower_triangular_batched, _preprocess_qk_l2norm

Table = EqualChunks | PackedChunks


def heads_first(x: Tensor) -> Tensor:
    """[...,C,H,D] to [...,H,C,D], or back."""
    return x.transpose(-3, -2)


def check_heads(H: int, HV: int, operator: str) -> None:
    if H == 0 or HV % H:
        raise ValueError(
            f"Unsupported head mapping in {operator}: q/k heads={H}, value heads={HV}. "
            "Expected HV % H == 0."
        )


def hpu_chunk_gdr_preprocess(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None,
    initial_state: Tensor | None,
    use_qk_l2norm_in_kernel: bool,
    chunk_size: int,
    num_seqs: int,
    seq_len: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, int, float, int, int, int]:
    """Heads repeated, norms, the sum of log-decays inside each chunk, of num_seqs sequences of
    seq_len tokens. Returns (qf, kf, vf, bf, g_cumsum, init_state, H, num_chunks, scale, K, V, S):
    tokens [S*seq_len,H,...] in _GDN_COMPUTE_DTYPE, g_cumsum and init_state [S,H,V,K] float32."""
    H, Kdim = q.shape[2:]
    HV, Vdim = v.shape[2:]
    check_heads(H, HV, "hpu_chunk_gdr_preprocess")
    if use_qk_l2norm_in_kernel:
        q, k = _preprocess_qk_l2norm(q, k)
    total, dtype = num_seqs * seq_len, switches._GDN_COMPUTE_DTYPE

    def tokens(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.reshape(-1, *x.shape[2:])[:total].to(dtype)

    qf, kf = (tokens(repeat_heads(x, HV), dtype) for x in (q, k))
    vf, bf = tokens(v, dtype), tokens(beta, dtype)

    table = EqualChunks(num_seqs, seq_len, chunk_size)
    gates = clamp_log_decay(tokens(g, torch.float32)).reshape(num_seqs, seq_len, HV)
    sums = torch.cumsum(table.split(gates), dim=1)
    sums = table.join(sums.reshape(num_seqs, table.steps, chunk_size, HV)).reshape(-1, HV)

    if initial_state is None:
        state = q.new_zeros(num_seqs, HV, Vdim, Kdim, dtype=torch.float32)
    else:
        state = initial_state.to(torch.float32)
    scale = Kdim**-0.5 if scale is None else scale
    return qf, kf, vf, bf, sums, state, HV, table.steps, scale, Kdim, Vdim, num_seqs


def _cut(
    table: Table, q: Tensor, k: Tensor, v: Tensor, sums: Tensor, beta: Tensor
) -> tuple[Tensor, ...]:
    """Tokens [S,seq_len,H,...] to chunks [M,C,H,...]. The sum of padding is that of the last token,
    so that nothing decays past the end."""
    filled = table.split(torch.ones_like(sums[..., 0]))
    last = (filled.sum(1).long() - 1).clamp(min=0)
    q, k, v, cut, beta = (table.split(x) for x in (q, k, v, sums, beta))
    at_last = cut.gather(1, last[:, None, None].expand(-1, 1, cut.shape[2]))
    return q, k, v, torch.where(filled[..., None] > 0, cut, at_last), beta


def _phase_a(q, k, v, sums, beta, neumann_iters: int) -> tuple[Chunks, staged_a.PhaseA]:
    """Of chunks [M,C,H,...]."""
    q, k, v = (heads_first(x).float() for x in (q, k, v))
    sums, beta = (x.transpose(-2, -1).float() for x in (sums, beta))
    x = Chunks(q, k, v, beta, decay_of_sums(sums))
    eye = torch.eye(sums.shape[-1], dtype=torch.float32, device=sums.device)

    def invert(A: Tensor) -> Tensor:
        return _hpu_solve_lower_triangular_batched(A + eye, eye, True, neumann_iters)

    return x, staged_a.phase_a(x, invert)


def hpu_chunk_gdr_phase_a(
    qf: Tensor,
    kf: Tensor,
    vf: Tensor,
    bf: Tensor,
    g_cumsum: Tensor,
    seq_len: int,
    chunk_size: int,
    S: int,
    num_chunks: int,
    H: int,
    Kdim: int,
    Vdim: int,
    neumann_iters: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """u, w (float32), q, k and the sums, each [S,chunks,C,H,...], of what hpu_chunk_gdr_preprocess
    returns."""
    table = EqualChunks(S, seq_len, chunk_size)
    rows = (x.reshape(S, seq_len, *x.shape[1:]) for x in (qf, kf, vf, g_cumsum, bf))
    q, k, v, sums, beta = _cut(table, *rows)
    _, a = _phase_a(q, k, v, sums, beta, neumann_iters)

    def by_sequence(x: Tensor) -> Tensor:
        return x.reshape(S, num_chunks, *x.shape[1:])

    results = heads_first(a.u), heads_first(a.w), q, k, sums
    return tuple(by_sequence(x) for x in results)


def hpu_chunk_gdr_phase_b(
    u_all: Tensor,
    w_all: Tensor,
    q_chunks: Tensor,
    k_chunks: Tensor,
    g_chunks: Tensor,
    init_state: Tensor,
    scale: float,
    S: int,
    num_chunks: int,
    seq_len: int,
    H: int,
    Kdim: int,
    Vdim: int,
    output_final_state: bool,
    output_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The walk over the chunks, in the form that _USE_LEGACY_PHASE_B names. Returns out
    [S*seq_len,H,V], float32, and the last states [S,H,V,K] in output_dtype (init_state's unless
    given), or None."""
    walk = (
        _hpu_chunk_gdr_phase_b_legacy
        if switches._USE_LEGACY_PHASE_B
        else _hpu_chunk_gdr_phase_b_optimized
    )
    return walk(
        u_all, w_all, q_chunks, k_chunks, g_chunks, init_state, scale, S, num_chunks, seq_len, H,
        Kdim, Vdim, output_final_state, output_dtype,
    )  # fmt: skip


def _hpu_chunk_gdr_phase_b_legacy(
    u_all: Tensor,
    w_all: Tensor,
    q_chunks: Tensor,
    k_chunks: Tensor,
    g_chunks: Tensor,
    init_state: Tensor,
    scale: float,
    S: int,
    num_chunks: int,
    seq_len: int,
    H: int,
    Kdim: int,
    Vdim: int,
    output_final_state: bool,
    output_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    walk = staged_b.phase_b_legacy
    tensors = u_all, w_all, q_chunks, k_chunks, g_chunks
    return _walk(walk, *tensors, init_state, scale, seq_len, output_final_state, output_dtype)


def _hpu_chunk_gdr_phase_b_optimized(
    u_all: Tensor,
    w_all: Tensor,
    q_chunks: Tensor,
    k_chunks: Tensor,
    g_chunks: Tensor,
    init_state: Tensor,
    scale: float,
    S: int,
    num_chunks: int,
    seq_len: int,
    H: int,
    Kdim: int,
    Vdim: int,
    output_final_state: bool,
    output_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    walk = staged_b.phase_b_optimized
    tensors = u_all, w_all, q_chunks, k_chunks, g_chunks
    return _walk(walk, *tensors, init_state, scale, seq_len, output_final_state, output_dtype)


def _walk(walk, u, w, q, k, sums, state, scale, seq_len, output_final_state, output_dtype):
    S, num_chunks, C = sums.shape[:3]
    table, dtype = EqualChunks(S, seq_len, C), compute_dtype(q)
    u, w, q, k = (heads_first(x).flatten(0, 1).float() for x in (u, w, q, k))
    decay = decay_of_sums(sums.flatten(0, 1).transpose(1, 2).float())
    # Neither form looks at v and beta, A and T.
    walked = walk(
        Chunks(q, k, u, None, decay),
        staged_a.PhaseA(None, None, u, w),
        state.float(),
        table,
        scale,
        dtype,
    )
    out = table.join(heads_first(walked.out)).flatten(0, 1)
    if not output_final_state:
        return out, None
    return out, walked.state.to(output_dtype or state.dtype, copy=True)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What the products of chunks of x's dtype take."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32


def _phase_b_step(
    u_c: Tensor,
    w_c: Tensor,
    k_c: Tensor,
    g_c: Tensor,
    q_c: Tensor,
    states: Tensor,
    scale: float,
    S: int,
    H: int,
    Kdim: int,
    Vdim: int,
) -> tuple[Tensor, Tensor]:
    """One chunk of every sequence: u_c [S,C,H,V], w_c, k_c, q_c [S,C,H,K], g_c [S,C,H], states
    [S,H,V,K]. Returns out [S,C,H,V] and the new states."""
    u, w, q, k = (heads_first(x).float() for x in (u_c, w_c, q_c, k_c))
    decay = decay_of_sums(g_c.transpose(-2, -1).float())
    out, _, states = chunk_step(u, w, q, k, decay, states.float(), scale, compute_dtype(q_c))
    return heads_first(out), states


def _chunk_vectorized_body(
    q_chunk: Tensor,
    k_chunk: Tensor,
    v_chunk: Tensor,
    g_chunk: Tensor,
    beta_chunk: Tensor,
    state: Tensor,
    eye: Tensor,
    scale: float,
    neumann_iters: int,
) -> tuple[Tensor, Tensor]:
    """A whole chunk of one sequence: q_chunk, k_chunk [C,H,K], v_chunk [C,H,V], g_chunk, beta_chunk
    [C,H], state [H,V,K]. Returns out [C,H,V] and the new state."""
    tensors = (x.unsqueeze(0) for x in (q_chunk, k_chunk, v_chunk, g_chunk, beta_chunk))
    x, a = _phase_a(*tensors, neumann_iters)
    dtype = compute_dtype(q_chunk)
    out, _, state = chunk_step(a.u, a.w, x.q, x.k, x.decay, state[None].float(), scale, dtype)
    return heads_first(out)[0], state[0]


def _chunk_precomputed_pipeline(
    qf: Tensor,
    kf: Tensor,
    vf: Tensor,
    g_cumsum: Tensor,
    bf: Tensor,
    init_state: Tensor,
    seq_ranges: list[tuple[int, int]],
    chunk_size: int,
    scale: float,
    H: int,
    Kdim: int,
    Vdim: int,
    output_final_state: bool,
    neumann_iters: int,
) -> tuple[Tensor, Tensor | None]:
    """Phase A of all chunks, then the legacy walk, over tokens [tokens,H,...] of sequences of any
    lengths. Returns out [tokens,H,V], float32, zero outside of seq_ranges, and the last states
    [S,H,V,K] in init_state's dtype, or None."""
    lengths = [end - begin for begin, end in seq_ranges]
    # Tensors are made of numbers on the host here, the ranges being such numbers.
    where = torch.tensor(
        [t for begin, end in seq_ranges for t in range(begin, end)], dtype=torch.int64
    ).to(qf.device)
    cu = torch.tensor([0, *lengths]).cumsum(0).to(qf.device)
    table = PackedChunks(cu, sum(lengths), max(lengths, default=0), chunk_size)
    rows = (x.index_select(0, where).unsqueeze(0) for x in (qf, kf, vf, g_cumsum, bf))
    x, a = _phase_a(*_cut(table, *rows), neumann_iters)
    dtype = compute_dtype(qf)
    walked = staged_b.phase_b_legacy(x, a, init_state.float(), table, scale, dtype)
    out = walked.out.new_zeros(qf.shape[0], H, Vdim)
    out = out.index_copy(0, where, table.join(heads_first(walked.out))[0])
    if not output_final_state:
        return out, None
    return out, walked.state.to(init_state.dtype, copy=True)
