"""What chunk and recurrent share: the arguments of a call, and what is made of them before and
after the stages. Names and meanings are those of include/gdn/ops.h.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .check_call import check_call
from .gating import log_decay, write_strength
from .sequences import EqualChunks, PackedChunks, chunks_of
from .states import StatePool, zero_where


@dataclass
class Call:
    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor | None
    beta: Tensor | None
    state: Tensor | None
    state_layout: str
    in_place: bool = False
    A_log: Tensor | None = None
    a: Tensor | None = None
    dt_bias: Tensor | None = None
    b: Tensor | None = None
    allow_neg_eigval: bool = False
    softplus_beta: float = 1.0
    softplus_threshold: float = 20.0
    cu_seqlens: Tensor | None = None
    max_length: int | None = None
    scale: float | None = None
    use_qk_l2norm: bool = False
    l2norm_eps: float = 1e-6
    initial_state_indices: Tensor | None = None
    final_state_indices: Tensor | None = None
    has_initial_state: Tensor | None = None
    num_accepted: Tensor | None = None
    null_slot: int | None = None
    compute: str = "auto"
    force_kernel: str | None = None

    def __post_init__(self) -> None:
        check_call(self)
        if self.scale is None:
            self.scale = self.q.shape[-1] ** -0.5
        self.pool = StatePool(
            self.state,
            self.count(),
            self.in_place,
            self.initial_state_indices,
            self.final_state_indices,
            self.has_initial_state,
            self.num_accepted,
            self.null_slot,
        )

    # Before the stages.

    def table(self, chunk_size: int) -> EqualChunks | PackedChunks:
        B, T = self.q.shape[:2]
        return chunks_of(B, T, self.cu_seqlens, self.max_length, chunk_size)

    def count(self) -> int:
        return self.q.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    def gates(self) -> tuple[Tensor, Tensor | None]:
        """g: float32, and beta."""
        g = self.g
        if g is None:
            g = log_decay(
                self.A_log, self.a, self.dt_bias, self.softplus_beta, self.softplus_threshold
            )
        beta = self.beta
        if self.b is not None:
            beta = write_strength(self.b)
        if self.allow_neg_eigval:
            beta = torch.full_like(g, 2.0) if beta is None else beta.float() * 2
        return g.float(), beta

    def compute_dtype(self) -> torch.dtype:
        # 'auto' permits bfloat16 products to bfloat16 inputs; without a way to keep their results
        # in float32 the permission is not used.
        return torch.bfloat16 if self.compute == "bfloat16" else torch.float32

    def initial(self) -> tuple[Tensor, Tensor | None]:
        """The states that the sequences start from, float32 [N,HV,V,K], and which sequences are
        skipped, bool [N]."""
        if self.state is None:
            N, HV = self.count(), self.v.shape[2]
            K, V = self.q.shape[-1], self.v.shape[-1]
            return self.v.new_zeros(N, HV, V, K, dtype=torch.float32), None
        state, skipped = self.pool.read()
        return self._turn(state.float()), skipped

    def _turn(self, state: Tensor) -> Tensor:
        """From the caller's layout to [..,V,K], or back."""
        return state.mT if self.state_layout == "kv" else state

    # After the stages.

    def output(
        self, out: Tensor, table: EqualChunks | PackedChunks, skipped: Tensor | None
    ) -> Tensor:
        """out [N,steps,C,HV,V] as the caller's [B,T,HV,V]."""
        if skipped is not None:
            out = zero_where(skipped, out)
        return table.join(out).to(self.v.dtype)

    def final(self, state: Tensor, skipped: Tensor | None) -> Tensor:
        """The last states as a tensor of their own, [N,HV,..]; zero where skipped."""
        state = self._turn(state if skipped is None else zero_where(skipped, state))
        dtype = torch.float32 if self.state is None else self.state.dtype
        # A copy: without tokens the last state would be the caller's own.
        return state.to(dtype, memory_format=torch.contiguous_format, copy=True)

    def store(self, state: Tensor, skipped: Tensor | None, *token) -> None:
        """States into their slots; `token`: see StatePool.write."""
        self.pool.write(self._turn(state), skipped, *token)
