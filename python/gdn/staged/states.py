"""States of sequences in slots of a pool. A slot is read by `index_select` and written by
`index_copy_`: no slot but the named ones is touched, and no index has to be known on the host.

A negative index, `null_slot`, and an index past the pool are padding. (Where the indices lie on the
host `check_slots.py` refuses the last kind; on a device nobody can look without waiting for it.)
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class StatePool:
    """The states of a call, any tensor [slots,...], and who reads and writes which."""

    state: Tensor
    count: int
    """N, sequences"""
    in_place: bool
    initial_state_indices: Tensor | None
    """int [N], or [N,M] with num_accepted; absent: sequence n reads slot n"""
    final_state_indices: Tensor | None
    """int [N], or [N,M]: the state after token t goes to column t; absent: as the initial ones"""
    has_initial_state: Tensor | None
    num_accepted: Tensor | None
    null_slot: int | None

    def __post_init__(self) -> None:
        if self.final_state_indices is None:
            self.final_state_indices = self.initial_state_indices

    @property
    def writes_every_state(self) -> bool:
        indices = self.final_state_indices
        return self.in_place and indices is not None and indices.ndim == 2

    def read(self) -> tuple[Tensor, Tensor | None]:
        """What the sequences start from, [N,...], zero where has_initial_state is false, and which
        of them are skipped because they read padding, bool [N]. Those start from anything: their
        results are dropped."""
        if self.initial_state_indices is None:
            state, skipped = self.state[: self.count], None
        else:
            index, skipped = self._slots(self._read_column())
            if self.state.shape[0] == 0:
                return self.state.new_zeros(self.count, *self.state.shape[1:]), skipped
            state = self.state.index_select(0, index)
        if self.has_initial_state is not None:
            state = zero_where(~self.has_initial_state, state)
        return state, skipped

    def write(
        self,
        states: Tensor,
        skipped: Tensor | None,
        column: int | None = None,
        lengths: Tensor | None = None,
    ) -> None:
        """States [N,...] into their slots: the last ones, or those after token `column`, of the
        sequences that are longer than that. Nothing of skipped sequences."""
        indices = self.final_state_indices
        if indices is None:
            self.state[: self.count].copy_(states)
            return
        if column is not None and column >= indices.shape[1]:
            return  # no sequence is as long, or the columns would not do
        index, dropped = self._slots(indices if column is None else indices[:, column])
        if skipped is not None:
            dropped = dropped | skipped
        if column is not None:
            dropped = dropped | (column >= lengths)
        _write(self.state, states, index, dropped)

    def at_column(self, column: int) -> "StatePool":
        """The same slots of state[:,column]."""
        return dataclasses.replace(self, state=self.state[:, column])

    def _read_column(self) -> Tensor:
        indices = self.initial_state_indices
        if indices.ndim == 1:
            return indices
        column = (self.num_accepted.long() - 1).clamp(0, indices.shape[1] - 1)
        return indices.gather(1, column.unsqueeze(1)).squeeze(1)

    def _slots(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The slots, 0 for padding, and what is padding."""
        index = indices.long()
        padding = (index < 0) | (index >= self.state.shape[0])
        if self.null_slot is not None:
            padding = padding | (index == self.null_slot)
        return torch.where(padding, 0, index), padding


def _write(pool: Tensor, states: Tensor, index: Tensor, dropped: Tensor) -> None:
    if states.shape[0] == 0 or pool.shape[0] == 0:
        return
    # index_copy_ writes for every row, and a dropped row has nowhere to write. It repeats what the
    # first other row does, or, where there is none, puts back what a slot holds.
    first = torch.argmin(dropped.to(torch.int32)).reshape(1)
    source = index.index_select(0, first)
    states = states.to(pool.dtype)
    again = torch.where(
        widen(dropped[first], states),
        pool.index_select(0, source),
        states.index_select(0, first),
    )
    index = torch.where(dropped, source, index)
    pool.index_copy_(0, index, torch.where(widen(dropped, states), again, states))


def widen(mask: Tensor, x: Tensor) -> Tensor:
    """A mask of the first axes, for x."""
    return mask.reshape(*mask.shape, *(1 for _ in range(x.ndim - mask.ndim)))


def zero_where(mask: Tensor, x: Tensor) -> Tensor:
    """Zero where a mask [N] is set: selected, not multiplied, for 0 * NaN is NaN."""
    return torch.where(widen(mask, x), 0, x)
