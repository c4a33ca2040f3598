"""Where a call goes: to the kernel of the tensors' device, or to the staged pipeline of tensor
operations (gdn.staged) where the device has none."""

import contextlib

import torch
from torch.autograd import forward_ad

from ._autograd import refuse_tangents
from ._errors import translated
from ._library import FUNCTIONAL, overload

_below_autograd = torch._C._AutoDispatchBelowAutograd
_requires_gradient = torch._C._any_requires_grad

_KERNELS = tuple(torch.ops.gdn.kernels())
_forced_kernel = None


@contextlib.contextmanager
def kernel(name):
    """Within it, the functions of this package run the kernel of that name (gdn.kernels() lists
    them): another instruction set's, or "reference", the definition in double. For all threads.
    torch.ops.gdn takes the name as an argument. None forces nothing.

    Raises NotImplementedError where no kernel of that name runs here.

    with gdn.kernel("reference"):
        expected, _ = gdn.chunk_gated_delta_rule(q, k, v, g, beta)
    """
    global _forced_kernel
    if name is not None and name not in _KERNELS:
        raise NotImplementedError(
            f'gdn.kernel: kernel "{name}" does not run here, expected one of {", ".join(_KERNELS)}'
        )
    before = _forced_kernel
    _forced_kernel = name
    try:
        yield
    finally:
        _forced_kernel = before


_has_kernel = {"cpu": True, "meta": True}


def has_kernel(device):
    """Whether torch.ops.gdn runs on tensors of this device, a torch.device or what makes one:
    "cpu". (Those on the meta device have shapes alone.)"""
    kind = (device if isinstance(device, torch.device) else torch.device(device)).type
    found = _has_kernel.get(kind)
    if found is None:
        key = torch._C._dispatch_key_for_device(kind)
        found = torch._C._dispatch_has_kernel_for_dispatch_key("gdn::chunk", key)
        if found:  # a library with kernels may still be loaded
            _has_kernel[kind] = True
    return found


def operator(name):
    """The function that runs torch.ops.gdn.<name>, or gdn.staged.<name> with the same arguments."""
    run = overload(name)
    is_functional = name in FUNCTIONAL
    first_name = run._schema.arguments[0].name

    def call(*args, **kwargs):
        first = args[0] if args else kwargs.get(first_name)
        if _forced_kernel is not None:
            kwargs["force_kernel"] = _forced_kernel
        if not (isinstance(first, torch.Tensor) and (first.is_cpu or has_kernel(first.device))):
            if not isinstance(first, torch.Tensor):
                kind = type(first).__name__
                raise TypeError(f"gdn.{name}: {first_name} is a {kind}, expected a tensor")
            from . import staged

            return getattr(staged, name)(*args, **kwargs)
        # A compiler follows neither exceptions nor what lies below autograd.
        if torch.compiler.is_compiling():
            return run(*args, **kwargs)
        if forward_ad._current_level >= 0:
            refuse_tangents(name, (*args, *kwargs.values()))
        try:
            # What autograd has to do when no gradient is wanted is done here in a tenth of the
            # time.
            if is_functional and not (
                torch.is_grad_enabled() and _requires_gradient(*args, **kwargs)
            ):
                with _below_autograd():
                    return run(*args, **kwargs)
            return run(*args, **kwargs)
        except RuntimeError as error:
            exception = translated(error, run._schema, args, kwargs)
            if exception is error:
                raise
        raise exception

    call.__name__ = call.__qualname__ = name
    call.__doc__ = (
        f"torch.ops.gdn.{name}, with ValueError, TypeError or IndexError for a wrong argument: "
        f"{run._schema}"
    )
    return call
