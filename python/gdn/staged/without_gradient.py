"""Forward only: results of inputs that require grad say so when someone asks for the gradient."""

import functools

import torch
from torch import Tensor


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, name, cause, *results):
        ctx.name = name
        ctx.save_for_backward(cause)
        return tuple(x.view_as(x) for x in results)

    @staticmethod
    def backward(ctx, *gradients):
        # An operator raises, because torch.compile runs this to trace it (gdn/_autograd.py).
        refusal = torch.ops.gdn._no_backward(ctx.saved_tensors[0], ctx.name)
        return None, refusal, *(None for _ in gradients)


def _requiring_grad(args, kwargs) -> Tensor | None:
    if not torch.is_grad_enabled():
        return None
    for x in (*args, *kwargs.values()):
        if isinstance(x, Tensor) and x.requires_grad:
            return x
    return None


def without_gradient(function):
    """Of a function that returns a Tensor, or a tuple of them."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        cause = _requiring_grad(args, kwargs)
        with torch.no_grad():
            results = function(*args, **kwargs)
        if cause is None:
            return results
        if isinstance(results, Tensor):
            return _Refuse.apply(function.__name__, cause, results)[0]
        return _Refuse.apply(function.__name__, cause, *results)

    return wrapped


def in_place(function):
    """Of a function that writes an argument."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        if _requiring_grad(args, kwargs) is not None:
            raise NotImplementedError(
                f"gdn.{function.__name__} works in place and has no backward: call it under "
                "torch.no_grad()"
            )
        with torch.no_grad():
            return function(*args, **kwargs)

    return wrapped
