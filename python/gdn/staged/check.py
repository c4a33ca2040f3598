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
            self.fail(name, f"has shape {_text(x.shape)}", _text(shape))

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
            self.fail(name, f"has shape {_text(x.shape)}", "[...,D] of 1 to 4 axes")
        self.tensor(name, x, x.shape)
        if x.shape[-1] < 1:
            self.fail(name, "has D = 0", "at least 1")

    def one_of(self, name: str, value, allowed) -> None:
        if value not in allowed:
            self.fail(name, f'is "{value}"', _any_of(f'"{each}"' for each in allowed))

    def not_negative(self, name: str, value: float) -> None:
        if not 0 <= value <= _LARGEST:
            self.fail(name, f"is {value:g}", "a finite float32 of at least 0")

    def softplus(self, beta: float, threshold: float) -> None:
        if not 0 < beta <= _LARGEST:
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

    def slots_of(self, pool: Tensor | None, indices: Tensor | None, count: int) -> int | str:
        """The first extent that a pool may have: without indices slot n is sequence n's."""
        if pool is None or indices is not None:
            return "slots"
        if pool.ndim > 0 and pool.shape[0] > count:
            self._fail_slots(pool, count)
        return count

    def _fail_slots(self, pool: Tensor, count: int) -> None:
        self.fail(
            "initial_state",
            f"has {pool.shape[0]} slots for {count} sequence{'s' * (count != 1)}",
            "as many, or initial_state_indices",
        )

    def slots(
        self,
        count: int,
        pool: Tensor | None,
        lengths: list[int] | None,
        in_place: bool,
        initial: Tensor | None,
        final: Tensor | None,
        has_initial_state: Tensor | None,
        num_accepted: Tensor | None,
        null_slot: int | None,
        one_slot: bool = False,
    ) -> None:
        """States and their indices; `one_slot`: num_accepted may come with [N] indices."""
        if pool is None:
            given = {
                "initial_state_indices": initial,
                "has_initial_state": has_initial_state,
                "num_accepted": num_accepted,
            }
            for name, x in given.items():
                if x is not None:
                    self.fail(name, "is given", "it only with initial_state")
        elif initial is None and pool.shape[0] != count:
            self._fail_slots(pool, count)
        one_slot = one_slot and num_accepted is not None and (initial is None or initial.ndim != 2)
        columns = num_accepted is not None and not one_slot
        self.tensor("num_accepted", num_accepted, [count], INDICES)
        if columns:
            if initial is None:
                self.fail("initial_state_indices", "is absent", "it with num_accepted")
            self.tensor("initial_state_indices", initial, [count, "M"], INDICES)
            if initial.shape[1] < 1:
                got = f"has shape {_text(initial.shape)}"
                self.fail("initial_state_indices", got, "at least one column")
        elif initial is not None:
            if initial.ndim == 2 and num_accepted is None:
                self.fail("num_accepted", "is absent", "it with initial_state_indices of two axes")
            self.tensor("initial_state_indices", initial, [count], INDICES)
        self.tensor("has_initial_state", has_initial_state, [count], (torch.bool,))
        if final is not None:
            self._final_indices(final, count, lengths, one_slot)
        elif in_place:
            final = initial
        if torch.compiler.is_compiling() or pool is None:
            return
        self._slot_values(
            count, pool.shape[0], lengths, initial, final, has_initial_state, num_accepted,
            null_slot, columns,
        )  # fmt: skip

    def _final_indices(self, final, count, lengths, one_slot):
        name, got = "final_state_indices", f"has shape {_text(final.shape)}"
        if final.ndim not in (1, 2) or final.shape[0] != count:
            self.fail(name, got, f"[{count}] or [{count},M]")
        self.tensor(name, final, final.shape, INDICES)
        if final.ndim == 1:
            return
        if one_slot:
            self.fail(
                name,
                got,
                "one slot a sequence, as num_accepted without columns to choose from asks for",
            )
        longest = max(lengths or [0])
        if longest > final.shape[1]:
            self.fail(
                name, got, f"at least {longest} columns, one a token of the longest sequence"
            )

    def _accepted(self, accepted: list[int], most: list[int]) -> None:
        """`most` is 0 where nobody looks."""
        for n, (value, limit) in enumerate(zip(accepted, most)):
            if limit and not 1 <= value <= limit:
                self.fail(f"num_accepted[{n}]", f"is {value}", f"1 to {limit}", IndexError)

    def _slot_values(
        self, count, slots, lengths, initial, final, has_initial_state, num_accepted, null_slot,
        columns,
    ):  # fmt: skip
        accepted, read, written = (self.values(x) for x in (num_accepted, initial, final))
        loads = self.values(has_initial_state)
        if columns and accepted is not None:
            self._accepted(accepted, [initial.shape[1]] * count)
        every = final is not None and final.ndim == 2
        if (columns and accepted is None) or (initial is not None and read is None):
            read = skipped = None  # nobody knows who is skipped, and so who writes
        else:
            read = range(count) if read is None else read
            read = [row[accepted[n] - 1] if columns else row for n, row in enumerate(read)]
            skipped = {n for n, slot in enumerate(read) if slot < 0 or slot == null_slot}
            if initial is None:
                skipped = set()
            if accepted is not None and not columns and lengths is not None:
                starts = [n not in skipped and (loads is None or loads[n]) for n in range(count)]
                self._accepted(accepted, [length * start for length, start in zip(lengths, starts)])
        if written is None or (every and lengths is None):
            lengths = [0] * count
        elif not every:
            lengths, written = [1] * count, [[slot] for slot in written]

        def check(name: str, slot: int, pool: str) -> None:
            if slot >= slots:
                self.fail(name, f"is {slot}", f"less than {slots}, the slots of {pool}", IndexError)

        def final_name(n: int, t: int) -> str:
            return f"final_state_indices[{n},{t}]" if every else f"final_state_indices[{n}]"

        writes = []
        for n in range(count):
            if skipped is not None and n in skipped:
                continue
            if skipped is not None and initial is not None:
                column = f",{accepted[n] - 1}" if columns else ""
                check(f"initial_state_indices[{n}{column}]", read[n], "initial_state")
            for t in range(lengths[n]):
                slot = written[n][t]
                if slot < 0 or slot == null_slot:
                    continue
                check(final_name(n, t), slot, "final_state")
                writes.append((slot, n, t))
        if skipped is None:
            return
        writes.sort()
        for (before, *first), (slot, *second) in zip(writes, writes[1:]):
            if slot == before:
                got = f"is {slot} as is {final_name(*first)}"
                self.fail(final_name(*second), got, "distinct slots", IndexError)
        writer = {slot: (n, t) for slot, n, t in writes}
        for n, slot in enumerate(read):
            if n in skipped or (loads is not None and not loads[n]):
                continue
            row, t = writer.get(slot, (n, 0))
            if row != n:
                expected = f"a slot that sequence {n} does not read"
                self.fail(final_name(row, t), f"is {slot}", expected, IndexError)


_LARGEST = torch.finfo(torch.float32).max


def _is_fake(x: Tensor) -> bool:
    return isinstance(x, torch._subclasses.FakeTensor)


def _text(shape) -> str:
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


def check_call(call) -> None:
    """A call of chunk or recurrent (call.py)."""
    check = Check(call.name)
    q, v = call.q, call.v
    check.one_of("state_layout", call.state_layout, LAYOUTS)
    check.one_of("compute", call.compute, COMPUTES)
    if call.force_kernel is not None:
        check.fail("force_kernel", f'is "{call.force_kernel}"', f"none for tensors on {q.device}")
    check.tensor("q", q, ["B", "T", "H", "K"])
    B, T, H, K = q.shape
    check.tensor("k", call.k, [B, T, H, K], (q.dtype,), "q")
    check.tensor("v", v, [B, T, "HV", "V"], (q.dtype,), "q")
    HV, V = v.shape[2:]
    if H < 1:
        check.fail("q", "has H = 0", "at least 1")
    if HV < 1 or HV % H:
        check.fail("v", f"has HV = {HV}", f"a positive multiple of H = {H}")
    _check_gates(check, call, [B, T, HV], (torch.float32, q.dtype))
    if call.scale is not None and not abs(call.scale) <= _LARGEST:
        check.fail("scale", f"is {call.scale:g}", "a finite float32")
    check.not_negative("l2norm_eps", call.l2norm_eps)
    check.sequences(call.cu_seqlens, B, T, call.max_length)
    N = call.count()
    slots = check.slots_of(call.state, call.initial_state_indices, N)
    state = [slots, HV, V, K] if call.state_layout == "vk" else [slots, HV, K, V]
    check.tensor("initial_state", call.state, state)
    check.same_device(
        call.q, k=call.k, v=call.v, g=call.g, beta=call.beta, A_log=call.A_log, a=call.a,
        dt_bias=call.dt_bias, b=call.b, cu_seqlens=call.cu_seqlens, state=call.state,
        initial_state_indices=call.initial_state_indices,
        final_state_indices=call.final_state_indices,
        has_initial_state=call.has_initial_state, num_accepted=call.num_accepted,
    )  # fmt: skip
    check.slots(
        N,
        call.state,
        lengths_of(check, call.cu_seqlens, B, T),
        call.in_place,
        call.initial_state_indices,
        call.final_state_indices,
        call.has_initial_state,
        call.num_accepted,
        call.null_slot,
    )


def _check_gates(check: Check, call, shape, dtypes) -> None:
    if call.g is not None:
        for name in ("A_log", "a"):
            if getattr(call, name) is not None:
                check.fail(name, "is given", "g or A_log and a, not both")
        if call.dt_bias is not None:
            check.fail("dt_bias", "is given", "it only with a")
        check.tensor("g", call.g, shape, (torch.float32,))
    else:
        if call.a is None and call.A_log is None:
            check.fail("g", "is absent", "g, or A_log and a")
        if call.A_log is None:
            check.fail("A_log", "is absent", "it with a")
        if call.a is None:
            check.fail("a", "is absent", "it with A_log")
        check.tensor("a", call.a, shape, dtypes)
        check.tensor("A_log", call.A_log, shape[-1:])
        check.tensor("dt_bias", call.dt_bias, shape[-1:])
    check.softplus(call.softplus_beta, call.softplus_threshold)
    if call.beta is not None and call.b is not None:
        check.fail("b", "is given", "beta or b, not both")
    check.tensor("beta", call.beta, shape, dtypes)
    check.tensor("b", call.b, shape, dtypes)
