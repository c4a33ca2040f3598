"""States and the indices of their slots: include/gdn/ops.h says what they may be, and by value the
core's rules are that a slot is in range, written once, and read by none but its writer."""

import torch
from torch import Tensor

from .check import INDICES, Check, text


def slots_of(check: Check, pool: Tensor | None, indices: Tensor | None, count: int) -> int | str:
    """The first extent that a pool may have: without indices slot n is sequence n's."""
    if pool is None or indices is not None:
        return "slots"
    if pool.ndim > 0 and pool.shape[0] > count:
        _fail_slots(check, pool, count)
    return count


def _fail_slots(check: Check, pool: Tensor, count: int) -> None:
    check.fail(
        "initial_state",
        f"has {pool.shape[0]} slots for {count} sequence{'s' * (count != 1)}",
        "as many, or initial_state_indices",
    )


def check_slots(
    check: Check,
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
                check.fail(name, "is given", "it only with initial_state")
    elif initial is None and pool.shape[0] != count:
        _fail_slots(check, pool, count)
    one_slot = one_slot and num_accepted is not None and (initial is None or initial.ndim != 2)
    columns = num_accepted is not None and not one_slot
    check.tensor("num_accepted", num_accepted, [count], INDICES)
    if columns:
        if initial is None:
            check.fail("initial_state_indices", "is absent", "it with num_accepted")
        check.tensor("initial_state_indices", initial, [count, "M"], INDICES)
        if initial.shape[1] < 1:
            got = f"has shape {text(initial.shape)}"
            check.fail("initial_state_indices", got, "at least one column")
    elif initial is not None:
        if initial.ndim == 2 and num_accepted is None:
            check.fail("num_accepted", "is absent", "it with initial_state_indices of two axes")
        check.tensor("initial_state_indices", initial, [count], INDICES)
    check.tensor("has_initial_state", has_initial_state, [count], (torch.bool,))
    written = (
        "initial_state_indices" if final is None or final is initial else "final_state_indices"
    )
    if final is not None:
        _final_indices(check, final, count, lengths, one_slot)
    elif in_place:
        final = initial
    if torch.compiler.is_compiling() or pool is None:
        return
    _values(
        check, count, pool.shape[0], lengths, initial, final, has_initial_state, num_accepted,
        null_slot, columns, written,
    )  # fmt: skip


def _final_indices(check, final, count, lengths, one_slot):
    name, got = "final_state_indices", f"has shape {text(final.shape)}"
    if final.ndim not in (1, 2) or final.shape[0] != count:
        check.fail(name, got, f"[{count}] or [{count},M]")
    check.tensor(name, final, final.shape, INDICES)
    if final.ndim == 1:
        return
    if one_slot:
        check.fail(
            name,
            got,
            "one slot a sequence, as num_accepted without columns to choose from asks for",
        )
    longest = max(lengths or [0])
    if longest > final.shape[1]:
        check.fail(name, got, f"at least {longest} columns, one a token of the longest sequence")


def _accepted(check: Check, accepted: list[int], most: list[int]) -> None:
    """`most` is 0 where nobody looks."""
    for n, (value, limit) in enumerate(zip(accepted, most)):
        if limit and not 1 <= value <= limit:
            check.fail(f"num_accepted[{n}]", f"is {value}", f"1 to {limit}", IndexError)


def _values(
    check, count, slots, lengths, initial, final, has_initial_state, num_accepted, null_slot,
    columns, written_name,
):  # fmt: skip
    accepted, read, written = (check.values(x) for x in (num_accepted, initial, final))
    loads = check.values(has_initial_state)
    if columns and accepted is not None:
        _accepted(check, accepted, [initial.shape[1]] * count)
    every = final is not None and final.ndim == 2
    if (columns and accepted is None) or (initial is not None and read is None):
        return  # nobody knows who is skipped
    skipped = set()
    if initial is None:
        read = list(range(count))
    else:
        read = [row[accepted[n] - 1] if columns else row for n, row in enumerate(read)]
        skipped = {n for n, slot in enumerate(read) if slot < 0 or slot == null_slot}
    loaded = [n not in skipped and (loads is None or loads[n]) for n in range(count)]
    if accepted is not None and not columns and lengths is not None:
        _accepted(check, accepted, [length * load for length, load in zip(lengths, loaded)])
    if written is None or (every and lengths is None):
        lengths = [0] * count
    elif not every:
        lengths, written = [1] * count, [[slot] for slot in written]

    def in_range(name: str, slot: int, pool: str) -> None:
        if slot >= slots:
            check.fail(name, f"is {slot}", f"less than {slots}, the slots of {pool}", IndexError)

    def final_name(n: int, t: int) -> str:
        return f"{written_name}[{n},{t}]" if every else f"{written_name}[{n}]"

    writes = []
    for n in range(count):
        if n in skipped:
            continue
        if initial is not None:
            column = f",{accepted[n] - 1}" if columns else ""
            in_range(f"initial_state_indices[{n}{column}]", read[n], "initial_state")
        for t in range(lengths[n]):
            slot = written[n][t]
            if slot < 0 or slot == null_slot:
                continue
            in_range(final_name(n, t), slot, "final_state")
            writes.append((slot, n, t))
    writes.sort()
    for (before, *first), (slot, *second) in zip(writes, writes[1:]):
        if slot == before:
            got = f"is {slot} as is {final_name(*first)}"
            check.fail(final_name(*second), got, "distinct slots", IndexError)
    writer = {slot: (n, t) for slot, n, t in writes}
    for n, slot in enumerate(read):
        row, t = writer.get(slot, (n, 0))
        if loaded[n] and row != n:
            expected = f"a slot that sequence {n} does not read"
            check.fail(final_name(row, t), f"is {slot}", expected, IndexError)
