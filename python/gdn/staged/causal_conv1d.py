"""Depthwise causal convolution over the tokens of each sequence:

    y_t = activation(bias + sum over j < W of weight[:,j] x_(t-W+1+j)),

the inputs before the first token being those of the state, the last S of a channel, newest last. A
sequence's inputs in a row, history first, give everything: W shifted views of it are the
convolution, and the S inputs before any place in it are the state there.
"""

import torch
from torch import Tensor

from .check import Check, lengths_of
from .check_slots import check_slots, slots_of
from .sequences import EqualChunks, PackedChunks, chunks_of
from .states import StatePool, zero_where
from .without_gradient import in_place, without_gradient


@without_gradient
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    silu: bool = False,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    initial_state_indices: Tensor | None = None,
    has_initial_state: Tensor | None = None,
    null_slot: int | None = None,
    max_length: int | None = None,
    force_kernel: str | None = None,
) -> tuple[Tensor, Tensor]:
    """torch.ops.gdn.causal_conv1d. `max_length`: see `chunk`."""
    call = _Call(
        "gdn.causal_conv1d", x, weight, bias, initial_state, silu, cu_seqlens, max_length,
        initial_state_indices, None, has_initial_state, None, null_slot, False,
    )  # fmt: skip
    y = call.output()
    if not output_final_state:
        return y, x.new_empty(0)
    state = call.last_state()
    if call.skipped is not None:
        state = zero_where(call.skipped, state)
    return y, state.to(torch.float32 if initial_state is None else initial_state.dtype)


@in_place
def causal_conv1d_(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    *,
    silu: bool = False,
    cu_seqlens: Tensor | None = None,
    initial_state_indices: Tensor | None = None,
    final_state_indices: Tensor | None = None,
    has_initial_state: Tensor | None = None,
    num_accepted: Tensor | None = None,
    null_slot: int | None = None,
    max_length: int | None = None,
    force_kernel: str | None = None,
) -> Tensor:
    """torch.ops.gdn.causal_conv1d_. `max_length`: see `chunk`."""
    call = _Call(
        "gdn.causal_conv1d_", x, weight, bias, state, silu, cu_seqlens, max_length,
        initial_state_indices, final_state_indices, has_initial_state, num_accepted, null_slot,
        True,
    )  # fmt: skip
    y = call.output()
    if not call.pool.writes_every_state:
        call.pool.write(call.last_state(), call.skipped)
        return y
    for t in range(call.longest):
        call.pool.write(call.state_after(t), call.skipped, t, call.lengths)
    return y


class _Call:
    """The inputs of every sequence in a row, [N,D,history+longest], and what follows from them."""

    def __init__(
        self, name, x, weight, bias, state, silu, cu_seqlens, max_length, initial_state_indices,
        final_state_indices, has_initial_state, num_accepted, null_slot, in_place,
    ):  # fmt: skip
        check = Check(name)
        check.tensor("x", x, ["B", "T", "D"])
        B, T, D = x.shape
        check.tensor("weight", weight, [D, "W"])
        check.tensor("bias", bias, [D])
        self.W = W = weight.shape[1]
        if W < 1:
            check.fail("weight", "has W = 0", "at least 1")
        check.sequences(cu_seqlens, B, T, max_length)
        N = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
        slots = slots_of(check, state, initial_state_indices, N)
        check.tensor("initial_state", state, [slots, D, "S"])
        if state is not None and state.shape[2] < W - 1:
            check.fail(
                "initial_state", f"has S = {state.shape[2]}", f"at least W - 1 = {W - 1}"
            )
        lengths = lengths_of(check, cu_seqlens, B, T)
        one_slot = num_accepted is not None and (
            initial_state_indices is None or initial_state_indices.ndim != 2
        )
        if one_slot and lengths is not None and state is not None:
            least = W - 2 + max(lengths, default=0)
            if state.shape[2] < least:
                check.fail(
                    "initial_state",
                    f"has S = {state.shape[2]}",
                    f"at least {least}, W - 2 and the tokens of the longest sequence, with "
                    "num_accepted",
                )
        check_slots(
            check, N, state, lengths, in_place, initial_state_indices,
            final_state_indices, has_initial_state, num_accepted, null_slot, one_slot=True,
        )  # fmt: skip

        self.x, self.weight, self.bias, self.silu = x, weight, bias, silu
        # All tokens of a sequence as one chunk.
        longest = chunks_of(B, T, cu_seqlens, max_length, 1).steps
        self.longest = longest
        self.table = (
            EqualChunks(B, T, max(longest, 1))
            if cu_seqlens is None
            else PackedChunks(cu_seqlens, T, longest, max(longest, 1))
        )
        self.lengths = self.table.lengths(x.device)
        self.pool = self.skipped = None
        if state is None:
            self.S = self.W - 1
            history = x.new_zeros(N, D, self.S, dtype=torch.float32)
        else:
            self.S = state.shape[2]
            self.pool = StatePool(
                state, N, in_place, initial_state_indices, final_state_indices,
                has_initial_state, num_accepted, null_slot,
            )  # fmt: skip
            history, self.skipped = self.pool.read()
            history = history.float()
            if one_slot:
                history = self._without_rejected(history, num_accepted)
        if longest == 0:
            self.inputs = history
            return
        tokens = self.table.at(self.table.split(x.float()), 0)
        self.inputs = torch.cat([history, tokens.transpose(1, 2)], dim=2)

    def _without_rejected(self, history: Tensor, num_accepted: Tensor) -> Tensor:
        """The slot was written by a call of as many tokens, of which the newest were rejected."""
        rejected = torch.where(self.lengths > 0, self.lengths - num_accepted.long(), 0)
        place = torch.arange(self.S, device=history.device) - rejected.clamp(min=0)[:, None]
        kept = history.gather(2, place.clamp(min=0)[:, None].expand_as(history))
        return torch.where((place >= 0)[:, None], kept, 0)

    def output(self) -> Tensor:
        if self.longest == 0:
            return self.x.new_zeros(self.x.shape)
        first = self.S - (self.W - 1)
        y = sum(
            self.weight[:, j, None].float()
            * self.inputs[:, :, first + j : first + j + self.longest]
            for j in range(self.W)
        )
        if self.bias is not None:
            y = y + self.bias.float()[:, None]
        if self.silu:
            y = torch.nn.functional.silu(y)
        if self.skipped is not None:
            y = zero_where(self.skipped, y)
        return self.table.join(y.transpose(1, 2).unsqueeze(1)).to(self.x.dtype)

    def state_after(self, t: int) -> Tensor:
        return self.inputs[:, :, t + 1 : t + 1 + self.S]

    def last_state(self) -> Tensor:
        place = self.lengths[:, None] + torch.arange(self.S, device=self.x.device)
        shape = (*self.inputs.shape[:2], self.S)
        return self.inputs.gather(2, place[:, None].expand(shape))
