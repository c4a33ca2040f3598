"""Small conversions that a lenient signature asks for. The operators themselves take nothing but
what they say."""

import torch

_HALVES = (torch.bfloat16, torch.float16)


def unsupported(function, **arguments):
    """Raises for the first argument that is given."""
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise NotImplementedError(f"gdn.{function}: {name} is given, which is not supported")


def require_tensors(function, may_be_none=(), **arguments):
    """Raises for the first argument that is no tensor."""
    for name, value in arguments.items():
        if not (isinstance(value, torch.Tensor) or (value is None and name in may_be_none)):
            kind = type(value).__name__
            raise TypeError(f"gdn.{function}: {name} is a {kind}, expected a tensor")


def last_contiguous(x):
    """x, or a copy whose last axis is contiguous."""
    return (
        x
        if not isinstance(x, torch.Tensor) or x.dim() == 0 or x.stride(-1) == 1
        else x.contiguous()
    )


def as_float32(x):
    """A 16-bit float tensor as float32, which loses nothing; anything else as it is."""
    return x.float() if isinstance(x, torch.Tensor) and x.dtype in _HALVES else x


def gate_as_float32(function, g):
    """The log-decay g as the operators take it; None stays."""
    if g is not None and g.dtype not in (torch.float32, *_HALVES):
        dtype = str(g.dtype).removeprefix("torch.")
        raise TypeError(
            f"gdn.{function}: g has dtype {dtype}, expected float32, bfloat16 or float16"
        )
    return as_float32(g)


def as_like_or_float32(x, like):
    """x where it has the dtype of `like`, else as_float32(x)."""
    return x if x is None or x.dtype == like.dtype else as_float32(x)
