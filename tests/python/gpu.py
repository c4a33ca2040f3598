"""What the tests on a GPU share. They are skipped where there is none, or no kernel for it;
GDN_TEST_DEVICE=cpu rehearses on the CPU those that can be."""

import dataclasses
import os

import pytest
import torch

import gdn

DEVICE = os.environ.get("GDN_TEST_DEVICE", "cuda")

needs_kernel = pytest.mark.skipif(
    not gdn.has_kernel(DEVICE), reason=f"gdn has no kernel for {DEVICE} here"
)
# Streams, graphs, memory: what nothing can stand in for.
needs_gpu = pytest.mark.skipif(
    DEVICE != "cuda" or not gdn.has_kernel("cuda"), reason="no GPU, or gdn has no kernel for it"
)


def to(device, value):
    """The tensors in it copied to a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    if isinstance(value, dict):
        return {name: to(device, x) for name, x in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to(device, x) for x in value)
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return type(value)(**{f.name: to(device, getattr(value, f.name)) for f in fields})
    return value


def tensors(*values):
    """Those in the values, in order."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            yield from tensors(*value.values())
        elif isinstance(value, (list, tuple)):
            yield from tensors(*value)


def same_bits(got, wanted):
    got, wanted = list(tensors(got)), list(tensors(wanted))
    assert len(got) == len(wanted)
    return all(
        a.dtype == b.dtype and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
        for a, b in zip(got, wanted)
    )
