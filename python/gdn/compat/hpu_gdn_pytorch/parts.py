"""The small private functions: a solve, a norm, a step, a slot."""

import torch
from torch import Tensor

import gdn.compat.hpu_gdn_pytorch as switches

from ...staged.l2norm import l2norm_f32
from ...staged.preprocess import repeat_heads
from ...staged.recurrent import recurrent_step
from ...staged.solve_tril import solve_exact, solve_neumann


def _hpu_solve_lower_triangular_batched(
    lmat: Tensor, eye: Tensor, use_vectorized: bool, neumann_iters: int
) -> Tensor:
    """The inverse of L = I + strictly lower, lmat [...,n,n], in its dtype: exact under
    _USE_EXACT_SOLVE, else by neumann_iters steps of Neumann's iteration. eye [n,n] and
    use_vectorized change nothing."""
    if lmat.ndim < 2 or lmat.shape[-1] != lmat.shape[-2]:
        raise ValueError(f"Expected square matrix [..., N, N], got {tuple(lmat.shape)}")
    n = lmat.shape[-1]
    if eye.shape != (n, n):
        raise ValueError(f"Expected eye shape ({n}, {n}), got {tuple(eye.shape)}")
    if switches._USE_EXACT_SOLVE:
        return _solve_exact_forward_sub(lmat, eye)
    check_iterations(neumann_iters)
    return solve_neumann(lmat, neumann_iters).to(lmat.dtype)


def check_iterations(neumann_iters: int) -> None:
    if neumann_iters <= 0:
        raise ValueError(f"neumann_iters must be > 0, got {neumann_iters}.")


def _solve_exact_forward_sub(lmat: Tensor, eye: Tensor) -> Tensor:
    return solve_exact(lmat).to(lmat.dtype)


def _l2norm_last_dim(x: Tensor, eps: float = 1e-6) -> Tensor:
    return l2norm_f32(x, eps).to(x.dtype)


def _preprocess_qk_l2norm(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """In float32."""
    return l2norm_f32(q), l2norm_f32(k)


def _recurrent_timestep_body(
    q_t: Tensor,
    k_t: Tensor,
    v_t: Tensor,
    g_t: Tensor,
    b_t: Tensor,
    h_state: Tensor,
    scale: float,
    HV: int,
    H: int,
    Kdim: int,
) -> tuple[Tensor, Tensor]:
    """A token of one sequence: q_t, k_t [H,K], v_t [HV,V], g_t, b_t [HV], h_state [HV,V,K]. Returns
    out [HV,V] and the new state."""
    q_t, k_t = repeat_heads(q_t, HV), repeat_heads(k_t, HV)
    out, _, state = recurrent_step(q_t, k_t, v_t, g_t, b_t, h_state, scale)
    return out, state


def _eager_read_state(state: Tensor, idx: Tensor, dtype: torch.dtype) -> Tensor:
    return state.index_select(0, idx).to(dtype)


def _eager_reshape_output(core_h, S, padded_len, seq_len, H, Vdim):
    """[S,chunks,H,C,V] to [S*seq_len,H,V]."""
    out = core_h.transpose(2, 3).reshape(S, padded_len, H, Vdim)
    return out[:, :seq_len].reshape(-1, H, Vdim)


def _materialize_seq_ranges(cu_seqlens: Tensor, total_tokens: int) -> list[tuple[int, int]]:
    """The [begin, end) of every sequence as numbers, kept inside the tokens. Waits for the device;
    where that is not allowed the error goes to the caller, who asked for lengths."""
    cu = [min(max(int(x), 0), total_tokens) for x in cu_seqlens.tolist()]
    return [(begin, max(begin, end)) for begin, end in zip(cu, cu[1:])]
