"""What can be wrong with a call, found before anything is computed. The messages are the core's.

Shapes and dtypes are checked on every device, values (cu_seqlens, indices) where looking at them
costs no wait: in tensors on the host, outside of a graph. Elsewhere cu_seqlens is kept inside the
tensors and an index out of range is padding.
"""

import math
import re

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INDICES = (torch.int32, torch.int64)
LAYOUTS = ("vk", "kv")
COMPUTES = ("auto", "float32", "bfloat16")
CONTEXT_SPLITS = ("auto", "fixed", "off")
LARGEST = torch.finfo(torch.float32).max


class Check:
    def __init__(self, operator: str):
        # The core has one name for both forms of an operator.
        self.operator = operator.removesuffix("_")

    def fail(self, what: str, got: str, expected: str, error=ValueError) -> None:
        message = f"{self.operator}: {what} {got}, expected {expected}"
        if self.operator.startswith("gdn.replay"):  # whose states have one set of indices
            message = re.sub("(initial|final)_state", "state", message)
        raise error(message)

    def shape(self, name: str, x: Tensor, shape) -> None:
        """An extent is a number, or the name of one that may be any."""
        fits = x.ndim == len(shape) and all(
            isinstance(want, str) or want == have for have, want in zip(x.shape, shape)
        )
        if not fits:
            self.fail(name, f"has shape {text(x.shape)}", text(shape))

    def tensor(self, name: str, x: Tensor | None, shape, dtypes=FLOATS, owner: str = "") -> None:
        """`owner`: the argument whose dtype it has to be."""
        if x is None:
            return
        self.shape(name, x, shape)
        if x.dtype not in dtypes:
            expected = _any_of(map(_dtype, dict.fromkeys(dtypes)))
            expected += f", the dtype of {owner}" if owner else ""
            self.fail(name, f"has dtype {_dtype(x.dtype)}", expected, TypeError)

    def rows(self, name: str, x: Tensor) -> None:
        if not 1 <= x.ndim <= 4:
            self.fail(name, f"has shape {text(x.shape)}", "[...,D] of 1 to 4 axes")
        self.tensor(name, x, x.shape)
        if x.shape[-1] < 1:
            self.fail(name, "has D = 0", "at least 1")

    def one_of(self, name: str, value, allowed) -> None:
        if value not in allowed:
            self.fail(name, f'is "{value}"', _any_of(f'"{each}"' for each in allowed))

    def not_negative(self, name: str, value: float) -> None:
        if not 0 <= value <= LARGEST:
            self.fail(name, f"is {value:g}", "a finite float32 of at least 0")

    def softplus(self, beta: float, threshold: float) -> None:
        if not 0 < beta <= LARGEST:
            self.fail("softplus_beta", f"is {beta:g}", "a finite float32 above 0")
        if math.isnan(threshold):
            self.fail("softplus_threshold", "is nan", "a number")

    def same_device(self, like: Tensor, **tensors: Tensor | None) -> None:
        for name, x in tensors.items():
            if x is not None and x.device != like.device:
                self.fail(name, f"is on {x.device}", f"{like.device}")

    def values(self, x: Tensor | None) -> list | None:
        """What a tensor of integers or bools holds, if looking costs nothing."""
        if x is None or x.device.type != "cpu" or torch.compiler.is_compiling() or _is_fake(x):
            return None
        return x.tolist()

    def sequences(self, cu_seqlens: Tensor | None, B: int, T: int, max_length: int | None) -> None:
        if cu_seqlens is None:
            return
        self.tensor("cu_seqlens", cu_seqlens, ["N+1"], INDICES)
        if cu_seqlens.shape[0] < 1:
            self.fail("cu_seqlens", "has shape [0]", "at least one element")
        if B != 1:
            self.fail("cu_seqlens", f"is given with B = {B}", "B = 1")
        cu = self.values(cu_seqlens)
        if cu is None:
            return
        if cu[0] != 0:
            self.fail("cu_seqlens[0]", f"is {cu[0]}", "0", IndexError)
        for n, (begin, end) in enumerate(zip(cu, cu[1:]), 1):
            name, got = f"cu_seqlens[{n}]", f"is {end}"
            if end < begin:
                self.fail(name, got, f"at least {begin}, the element before it", IndexError)
            if end > T:
                self.fail(name, got, f"at most T = {T}", IndexError)
            if max_length is not None and end - begin > max_length:
                self.fail(f"sequence {n - 1}", f"has {end - begin} tokens", f"at most {max_length}")


def _is_fake(x: Tensor) -> bool:
    return isinstance(x, torch._subclasses.FakeTensor)


def text(shape) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _any_of(names) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.") if dtype in _NAMED else "of another kind"


_NAMED = (
    *FLOATS, *INDICES, torch.bool, torch.float64, torch.int16, torch.int8, torch.uint8,
)  # fmt: skip


def lengths_of(check: Check, cu_seqlens: Tensor | None, B: int, T: int) -> list[int] | None:
    """Tokens of each sequence, if they can be looked at."""
    if cu_seqlens is None:
        return [T] * B
    cu = check.values(cu_seqlens)
    return None if cu is None else [end - begin for begin, end in zip(cu, cu[1:])]
