"""Every tolerance of the Python tests: docs/design.md, "Accuracy", as verify/tolerance.cc has it.
Errors are L2 norms of differences from a float64 reference, over a whole tensor, inputs taken as
stored."""

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


def bound(reference, dtype, compute="float32", hard=False, state=False):
    norm = reference.norm().item()
    if norm == 0:
        return 0.0
    if compute == "bfloat16":
        relative = BF16_STATE if state and dtype == torch.float32 else BF16_OUTPUT
        relative = BF16_HARD if hard else relative
        return relative * norm * (1 if reference.numel() >= MANY_ELEMENTS else FEW_ELEMENTS_FACTOR)
    if dtype != torch.float32:
        rounding = (reference.to(dtype).double() - reference).norm().item()
        return ROUNDING_FACTOR * rounding + ROUNDING_SLACK * norm
    return (F32_HARD if hard else F32) * norm


def error(got, reference):
    """Relative L2 error."""
    norm = reference.norm().item()
    difference = (got.double() - reference).norm().item()
    return difference / norm if norm else difference


def assert_close(got, reference, what="", **how):
    """how: compute, hard, state of `bound`."""
    assert got.shape == reference.shape, f"{what}: shape {got.shape}, expected {reference.shape}"
    reference = reference.double()
    difference = (got.double() - reference).norm().item()
    limit = bound(reference, got.dtype, **how)
    norm = reference.norm().item()
    assert difference <= limit, (
        f"{what}: error {difference:.3e}, bound {limit:.3e}; relative "
        f"{difference / norm if norm else difference:.3e}"
    )
