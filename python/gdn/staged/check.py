"""What can be wrong with a call, found before anything is computed. The messages are the core's.

Shapes and dtypes are checked on every device, values (cu_seqlens, indices) where looking at them
costs no wait: in tensors on the host, outside of a graph. Elsewhere cu_seqlens is kept inside the
tensors and an index out of range is padding.
"""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INDICES = (torch.int32, torch.int64)
LAYOUTS = ("vk", "kv")
COMPUTES = ("auto", "float32", "bfloat16")


class Check:
    def __init__(self, operator: str):
        self.operator = operator

    def fail(self, what: str, got: str, expected: str, error=ValueError) -> None:
        raise error(f"{self.operator}: {what} {got}, expected {expected}")

    def tensor(self, name: str, x: Tensor | None, shape, dtypes=FLOATS) -> None:
        """An extent None may be any."""
        if x is None:
            return
        fits = x.ndim == len(shape) and all(
            want in (None, have) for have, want in zip(x.shape, shape)
        )
        if not fits:
            self.fail(name, f"has shape {_text(x.shape)}", _text(shape))
        if x.dtype not in dtypes:
            names = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
            self.fail(name, f"has dtype {str(x.dtype).removeprefix('torch.')}", names, TypeError)

    def one_of(self, name: str, value, allowed) -> None:
        if value not in allowed:
            self.fail(name, f"is {value!r}", " or ".join(map(repr, allowed)))

    def same_device(self, like: Tensor, **tensors: Tensor | None) -> None:
        for name, x in tensors.items():
            if x is not None and x.device != like.device:
                self.fail(name, f"is on {x.device}", f"{like.device}")

    def values(self, x: Tensor | None) -> list | None:
        """What an integer tensor holds, if looking costs nothing."""
        if x is None or x.device.type != "cpu" or torch.compiler.is_compiling() or _is_fake(x):
            return None
        return x.tolist()

    def sequences(self, cu_seqlens: Tensor | None, B: int, T: int, max_length: int | None) -> None:
        if cu_seqlens is None:
            return
        self.tensor("cu_seqlens", cu_seqlens, [None], INDICES)
        if B != 1:
            self.fail("q", f"has batch {B}", "1 with cu_seqlens")
        if cu_seqlens.shape[0] < 1:
            self.fail("cu_seqlens", "has shape [0]", "[N+1]")
        cu = self.values(cu_seqlens)
        if cu is None:
            return
        if cu[0] != 0:
            self.fail("cu_seqlens[0]", f"is {cu[0]}", "0", IndexError)
        for n, (begin, end) in enumerate(zip(cu, cu[1:]), 1):
            if end < begin:
                self.fail(f"cu_seqlens[{n}]", f"is {end}", f"at least {begin}", IndexError)
            if max_length is not None and end - begin > max_length:
                self.fail(f"sequence {n - 1}", f"has {end - begin} tokens", f"at most {max_length}")
        if cu[-1] > T:
            self.fail(f"cu_seqlens[{len(cu) - 1}]", f"is {cu[-1]}", f"at most {T}", IndexError)

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
        given = {
            "initial_state_indices": initial,
            "has_initial_state": has_initial_state,
            "num_accepted": num_accepted,
        }
        for name, x in given.items():
            if pool is None and x is not None:
                self.fail(name, "is given", "it only with initial_state")
        columns = num_accepted is not None and not (
            one_slot and (initial is None or initial.ndim == 1)
        )
        self.tensor("num_accepted", num_accepted, [count], INDICES)
        self.tensor("has_initial_state", has_initial_state, [count], (torch.bool,))
        if columns and initial is None:
            self.fail("initial_state_indices", "is absent", "it with num_accepted")
        self.tensor(
            "initial_state_indices", initial, [count, None] if columns else [count], INDICES
        )
        if final is not None:
            self.tensor("final_state_indices", final, [count] + [None] * (final.ndim == 2), INDICES)
        elif in_place:
            final = initial
        if initial is None and final is None and pool is not None and pool.shape[0] != count:
            name = "state" if in_place else "initial_state"
            self.fail(name, f"has {pool.shape[0]} slots", f"{count}, one a sequence")
        self._slot_values(count, pool, lengths, initial, final, num_accepted, null_slot, columns)

    def _slot_values(self, count, pool, lengths, initial, final, num_accepted, null_slot, columns):
        every = final is not None and final.ndim == 2
        if every and lengths is not None and max(lengths, default=0) > final.shape[1]:
            self.fail(
                "final_state_indices",
                f"has shape {_text(final.shape)}",
                f"at least {max(lengths)} columns, one a token of the longest sequence",
            )
        accepted = self.values(num_accepted)
        if columns and accepted is not None:
            for n, value in enumerate(accepted):
                if not 1 <= value <= initial.shape[1]:
                    self.fail(
                        f"num_accepted[{n}]", f"is {value}", f"1 to {initial.shape[1]}", IndexError
                    )

        def check(name: str, slot: int) -> bool:
            if slot < 0 or slot == null_slot:
                return False
            if slot >= pool.shape[0]:
                self.fail(name, f"is {slot}", f"less than {pool.shape[0]}", IndexError)
            return True

        skipped = set()
        read = self.values(initial)
        for n in range(count if read is not None else 0):
            if columns and accepted is None:
                continue
            column = f",{accepted[n] - 1}" if columns else ""
            slot = read[n][accepted[n] - 1] if columns else read[n]
            if not check(f"initial_state_indices[{n}{column}]", slot):
                skipped.add(n)
        seen = {}
        written = self.values(final)
        if written is None or (every and lengths is None):
            return
        for n in range(count):
            if n in skipped:
                continue
            for t in range(lengths[n] if every else 1):
                name = f"final_state_indices[{n},{t}]" if every else f"final_state_indices[{n}]"
                slot = written[n][t] if every else written[n]
                if not check(name, slot):
                    continue
                if slot in seen:
                    self.fail(name, f"is {slot} as is {seen[slot]}", "distinct slots", IndexError)
                seen[slot] = name


def _is_fake(x: Tensor) -> bool:
    return isinstance(x, torch._subclasses.FakeTensor)


def _text(shape) -> str:
    return "[" + ",".join("*" if s is None else str(s) for s in shape) + "]"


def lengths_of(check: Check, cu_seqlens: Tensor | None, B: int, T: int) -> list[int] | None:
    """Tokens of each sequence, if they can be looked at."""
    if cu_seqlens is None:
        return [T] * B
    cu = check.values(cu_seqlens)
    return None if cu is None else [end - begin for begin, end in zip(cu, cu[1:])]


def check_call(call) -> None:
    """A call of chunk or recurrent (call.py)."""
    check = Check(call.name)
    check.tensor("q", call.q, [None] * 4)
    check.tensor("v", call.v, [None] * 4, (call.q.dtype,))
    B, T, H, K = call.q.shape
    HV, V = call.v.shape[2:]
    check.tensor("k", call.k, [B, T, H, K], (call.q.dtype,))
    check.tensor("v", call.v, [B, T, HV, V])
    if H == 0 or HV % H:
        check.fail("v", f"has {HV} heads", f"a multiple of q's {H}")
    gates, either = [B, T, HV], (call.q.dtype, torch.float32)
    check.tensor("g", call.g, gates, (torch.float32,))
    check.tensor("beta", call.beta, gates, either)
    check.tensor("a", call.a, gates, either)
    check.tensor("b", call.b, gates, either)
    check.tensor("A_log", call.A_log, [HV])
    check.tensor("dt_bias", call.dt_bias, [HV])
    if (call.g is None) == (call.A_log is None) or (call.a is None) != (call.A_log is None):
        check.fail("g", "is given" if call.g is not None else "is absent", "g, or A_log and a")
    if call.beta is not None and call.b is not None:
        check.fail("b", "is given", "beta or b, not both")
    check.one_of("state_layout", call.state_layout, LAYOUTS)
    check.one_of("compute", call.compute, COMPUTES)
    if call.force_kernel is not None:
        check.fail(
            "force_kernel", f"is {call.force_kernel!r}", f"none for tensors on {call.q.device}"
        )
    check.sequences(call.cu_seqlens, B, T, call.max_length)
    N = call.count()
    state = [None, HV, V, K] if call.state_layout == "vk" else [None, HV, K, V]
    check.tensor("state" if call.in_place else "initial_state", call.state, state)
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
