"""Gradients: there are none, and nobody gets zeros in their place.

A functional operator runs on tensors that require a gradient; asking for the gradient raises
NotImplementedError with the operator's name. torch.compile traces the backward when it compiles the
forward, so what raises is an operator of its own, in the backward. In-place operators raise at once
(csrc/gradients.cc), and so does every operator on tensors with tangents (forward mode).
"""

import torch
from torch.autograd import forward_ad

from ._library import FUNCTIONAL, IN_PLACE, overload

_library = torch.library.Library("gdn", "FRAGMENT")
_library.define("_no_backward(Tensor like, Tensor[] gradients, str operator) -> Tensor")


def _no_backward(like, gradients, operator):
    raise NotImplementedError(
        f"gdn.{operator} has no backward: it is for inference; detach its inputs, or use "
        "torch.no_grad()"
    )


_library.impl("_no_backward", _no_backward, "CompositeExplicitAutograd")
torch.library.register_fake(
    "gdn::_no_backward", lambda like, gradients, operator: torch.empty_like(like)
)


def refuse_gradients(name, tensors):
    """What csrc/gradients.cc says, for code that does not come by there."""
    if torch.is_grad_enabled() and any(
        isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in tensors
    ):
        raise RuntimeError(
            f"gdn.{name}: a tensor requires a gradient, expected none or torch.no_grad(): it "
            "updates its states in place and has no backward"
        )


def refuse_tangents(name, tensors):
    """Raises for a dual tensor of torch.autograd.forward_ad, torch.func.jvp among its users."""
    level = forward_ad._current_level
    if level < 0:
        return
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor) and torch.is_floating_point(tensor):
            if forward_ad.unpack_dual(tensor, level=level).tangent is not None:
                raise NotImplementedError(
                    f"gdn.{name} has no forward-mode gradient: it is for inference"
                )


class _WithoutBackward(torch.autograd.Function):
    """Calls the operator below autograd. The tensors are arguments of their own, because autograd
    looks for them nowhere else; `call` knows where they belong."""

    @staticmethod
    def forward(ctx, operator, call, *tensors):
        ctx.operator = operator
        ctx.save_for_backward(*tensors)
        return call(tensors)

    @staticmethod
    def backward(ctx, *gradients):
        # Of the incoming gradients too, or a compiler would find that the forward can compute it.
        incoming = [gradient for gradient in gradients if gradient is not None]

        def outgoing(tensor, needed):
            return torch.ops.gdn._no_backward(tensor, incoming, ctx.operator) if needed else None

        return None, None, *map(outgoing, ctx.saved_tensors, ctx.needs_input_grad[2:])


def _kernel(name):
    operator = overload(name)
    below_autograd = torch._C._AutoDispatchBelowAutograd
    requires_gradient = torch._C._any_requires_grad
    grad_enabled = torch.is_grad_enabled

    def kernel(*args, **kwargs):
        if forward_ad._current_level >= 0:
            refuse_tangents(name, (*args, *kwargs.values()))
        if not (grad_enabled() and requires_gradient(*args, **kwargs)):
            with below_autograd():
                return operator(*args, **kwargs)
        values = [*args, *kwargs.values()]
        places = [i for i, value in enumerate(values) if isinstance(value, torch.Tensor)]

        def call(tensors):
            for i, tensor in zip(places, tensors):
                values[i] = tensor
            keywords = dict(zip(kwargs, values[len(args) :]))
            with below_autograd():
                results = operator(*values[: len(args)], **keywords)
            return tuple(results) if isinstance(results, list) else results

        return _WithoutBackward.apply(name, call, *(values[i] for i in places))

    return kernel


def register():
    for name in FUNCTIONAL:
        _library.impl(name, _kernel(name), "Autograd")
    for name in IN_PLACE:
        _library.impl(name, torch.library.fallthrough_kernel, "Autograd")
