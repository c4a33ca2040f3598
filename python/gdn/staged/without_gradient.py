"""Forward only: results of inputs that require a gradient raise when someone asks for it, and what
works in place raises at once, as torch.ops.gdn does."""

import functools

import torch
from torch import Tensor

from .._autograd import refuse_gradients


class _Refuse(torch.autograd.Function):
    """Results as they are, with a history that leads to all of `causes`."""

    @staticmethod
    def forward(ctx, name, count, *tensors):
        ctx.name = name
        ctx.save_for_backward(*tensors[:count])
        return tuple(x.view_as(x) for x in tensors[count:])

    @staticmethod
    def backward(ctx, *gradients):
        # An operator raises, because torch.compile runs this to trace it (gdn/_autograd.py).
        incoming = [gradient for gradient in gradients if gradient is not None]
        causes = (torch.ops.gdn._no_backward(x, incoming, ctx.name) for x in ctx.saved_tensors)
        return None, None, *causes, *(None for _ in gradients)


def _requiring_gradient(args, kwargs) -> list[Tensor]:
    if not torch.is_grad_enabled():
        return []
    values = (*args, *kwargs.values())
    return [x for x in values if isinstance(x, Tensor) and x.requires_grad]


def without_gradient(function):
    """Of a function that returns a Tensor, or a tuple of them."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        causes = _requiring_gradient(args, kwargs)
        with torch.no_grad():
            results = function(*args, **kwargs)
        if not causes:
            return results
        if isinstance(results, Tensor):
            return _Refuse.apply(function.__name__, len(causes), *causes, results)[0]
        return _Refuse.apply(function.__name__, len(causes), *causes, *results)

    return wrapped


def in_place(function):
    """Of a function that writes an argument."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        refuse_gradients(function.__name__, (*args, *kwargs.values()))
        with torch.no_grad():
            return function(*args, **kwargs)

    return wrapped
