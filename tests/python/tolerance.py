"""The bounds of relative L2 errors, and the comparison: the one place of both for the Python tests. The numbers are
those of verify/tolerance.cc, which docs/design.md explains."""

import torch

F32 = 1e-6
F32_HARD = 4e-6
ROUNDING_FACTOR = 1.02
ROUNDING_SLACK = 1e-6
BF16_OUTPUT = 3.5e-3
BF16_STATE = 3e-3
BF16_HARD = 5e-3
MANY_ELEMENTS = 4096
FEW_ELEMENTS_FACTOR = 2


def bound(got, wanted, bf16_products=False, hard=False):
    """How far `got` may be from `wanted`, which is float64: an L2 norm."""
    norm = wanted.norm().item()
    rounded = got.dtype != torch.float32
    if bf16_products:
        relative = BF16_HARD if hard else BF16_OUTPUT if rounded else BF16_STATE
        return relative * (1 if wanted.numel() >= MANY_ELEMENTS else FEW_ELEMENTS_FACTOR) * norm
    if rounded:
        rounding = (wanted.to(got.dtype).double() - wanted).norm().item()
        return ROUNDING_FACTOR * rounding + ROUNDING_SLACK * norm
    return (F32_HARD if hard else F32) * norm


def assert_close(name, got, wanted, **how):
    assert got.shape == wanted.shape, f"{name} has shape {tuple(got.shape)}, expected {tuple(wanted.shape)}"
    wanted = wanted.double()
    error = (got.double() - wanted).norm().item()
    limit = bound(got, wanted, **how)
    assert error <= limit, f"{name}: the error {error:.3g} is over its bound {limit:.3g} (norm {wanted.norm():.3g})"
