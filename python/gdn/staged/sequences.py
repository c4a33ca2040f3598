"""Which token goes into which chunk.

Two tables with the same methods. `EqualChunks` is rows of one length: reshapes and nothing
else. `PackedChunks` is sequences of any lengths in one row: gathers, whose indices are computed on
the tensors' device from `cu_seqlens`, so that every shape is known without reading a length.

`split` cuts tensors of tokens into chunks of C tokens from each sequence's first token on, and
fills the last chunk up with zeros. What zeros do to a state is nothing (`decay.py`), and so a walk
over `steps` chunks may pass every sequence. Past the end of a sequence `keep_ended` gives its state
back as it was: zeros would make NaN of an Inf.
"""

import torch
from torch import Tensor

from .states import widen


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class EqualChunks:
    """`count` sequences of `length` tokens, one a row."""

    def __init__(self, count: int, length: int, chunk_size: int):
        self.count, self.length, self.chunk_size = count, length, chunk_size
        self.steps = ceil_div(length, chunk_size)

    def split(self, x: Tensor) -> Tensor:
        """[count,length,...] to [count*steps,C,...]."""
        missing = self.steps * self.chunk_size - self.length
        if missing:
            x = torch.cat([x, x.new_zeros(self.count, missing, *x.shape[2:])], dim=1)
        return x.reshape(self.count * self.steps, self.chunk_size, *x.shape[2:])

    def at(self, x: Tensor, step: int) -> Tensor:
        """The chunks of all sequences at a step of the walk: [count,...] of [count*steps,...]."""
        return x.reshape(self.count, self.steps, *x.shape[1:])[:, step]

    def keep_ended(self, step: int, before: Tensor, after: Tensor) -> Tensor:
        """The states [count,...] after a step of the walk."""
        return after  # all end with the walk

    def join(self, walked: Tensor) -> Tensor:
        """[count,steps,C,...] to [count,length,...]."""
        return walked.flatten(1, 2)[:, : self.length]

    def lengths(self, device: torch.device) -> Tensor:
        """Tokens of each sequence, [count]."""
        return torch.full((self.count,), self.length, device=device)


class PackedChunks:
    """Sequences of any lengths: sequence n is tokens [cu_seqlens[n], cu_seqlens[n+1]) of one row of
    `tokens`, none longer than `max_length`."""

    def __init__(self, cu_seqlens: Tensor, tokens: int, max_length: int, chunk_size: int):
        C, device = chunk_size, cu_seqlens.device
        # Indices on a device are nobody's to check: keep them inside the tensors.
        cu = cu_seqlens.long().clamp(0, tokens)
        self.count, self.tokens, self.chunk_size = cu.shape[0] - 1, tokens, C
        self.steps = ceil_div(max_length, C)
        begin, self._lengths = cu[:-1], (cu[1:] - cu[:-1]).clamp(min=0)
        if self.count == 0 or self.steps == 0:  # nothing to walk, and no sequence to clamp to
            self.steps = self._total = 0
            self._filled = torch.empty(0, C, dtype=torch.bool, device=device)
            self._token = torch.empty(0, dtype=torch.int64, device=device)
            return
        self._chunks = torch.div(self._lengths + C - 1, C, rounding_mode="floor")
        end = torch.cumsum(self._chunks, 0)
        self._first = end - self._chunks
        # There are at most this many chunks whatever the lengths, and one more, always empty, for
        # sequences that have ended.
        self._total = (tokens + self.count * (C - 1)) // C + 1

        chunk = torch.arange(self._total, device=device)
        owner = (chunk[:, None] >= end).sum(1).clamp(max=self.count - 1)
        place = (chunk - self._first[owner])[:, None] * C + torch.arange(C, device=device)
        self._filled = place < self._lengths[owner][:, None]
        self._token = torch.where(self._filled, begin[owner][:, None] + place, 0).flatten()

        token = torch.arange(tokens, device=device)
        owner = (token[:, None] >= cu[1:]).sum(1).clamp(max=self.count - 1)
        place = (token - begin[owner]).clamp(0, self.steps * C - 1)
        self._place = owner * (self.steps * C) + place
        self._used = token < cu[-1]

    def split(self, x: Tensor) -> Tensor:
        """[1,tokens,...] to [chunks,C,...]."""
        chunks = x[0].index_select(0, self._token)
        chunks = chunks.reshape(self._total, self.chunk_size, *x.shape[2:])
        return torch.where(widen(self._filled, chunks), chunks, 0)

    def at(self, x: Tensor, step: int) -> Tensor:
        """The chunks of all sequences at a step of the walk: [count,...] of [chunks,...]."""
        return x.index_select(
            0, torch.where(step < self._chunks, self._first + step, self._total - 1)
        )

    def keep_ended(self, step: int, before: Tensor, after: Tensor) -> Tensor:
        """The states [count,...] after a step of the walk: where a sequence has ended, those
        before."""
        return torch.where(widen(step < self._chunks, after), after, before)

    def join(self, walked: Tensor) -> Tensor:
        """[count,steps,C,...] to [1,tokens,...], zero past the last sequence."""
        if self.steps == 0:
            return walked.new_zeros(1, self.tokens, *walked.shape[3:])
        rows = walked.flatten(0, 2).index_select(0, self._place)
        return torch.where(widen(self._used, rows), rows, 0).unsqueeze(0)

    def lengths(self, device: torch.device) -> Tensor:
        """Tokens of each sequence, [count]."""
        return self._lengths


def chunks_of(
    batch: int,
    tokens: int,
    cu_seqlens: Tensor | None,
    max_length: int | None,
    chunk_size: int,
) -> EqualChunks | PackedChunks:
    """The table of a call. Reads the longest length from `cu_seqlens`, which waits for the device,
    unless `max_length` says it, or a graph is being traced; a graph without `max_length` walks as
    far as one sequence of all tokens would go."""
    if cu_seqlens is None:
        return EqualChunks(batch, tokens, chunk_size)
    if max_length is None:
        max_length = tokens
        if cu_seqlens.device.type != "meta" and not torch.compiler.is_compiling():
            if cu_seqlens.shape[0] > 1:
                max_length = int((cu_seqlens[1:] - cu_seqlens[:-1]).max())
    return PackedChunks(cu_seqlens, tokens, min(max_length, tokens), chunk_size)
