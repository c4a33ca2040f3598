"""Where a call goes: to the kernel of the tensors' device, or to the staged pipeline of tensor
operations (gdn.staged) where the device has none."""

import contextlib
import warnings

import torch
from torch.autograd import forward_ad

from ._autograd import refuse_tangents
from ._errors import translated
from ._library import FUNCTIONAL, overload, without_cuda

_below_autograd = torch._C._AutoDispatchBelowAutograd
_requires_gradient = torch._C._any_requires_grad

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
    if name is not None and name not in (names := torch.ops.gdn.kernels()):
        raise NotImplementedError(
            f'gdn.kernel: kernel "{name}" does not run here, expected one of {", ".join(names)}'
        )
    before = _forced_kernel
    _forced_kernel = name
    try:
        yield
    finally:
        _forced_kernel = before


_has_kernel = {torch.device("cpu"): True, torch.device("meta"): True}


def has_kernel(device):
    """Whether torch.ops.gdn runs on tensors of this device, a torch.device or what makes one:
    "cpu", "cuda". (Those on the meta device have shapes alone.)"""
    if not isinstance(device, torch.device):
        device = torch.device(device)
    found = _has_kernel.get(device)
    if found is None:
        if device.type == "cuda":
            return _gpu_has_kernel(device)
        key = torch._C._dispatch_key_for_device(device.type)
        found = torch._C._dispatch_has_kernel_for_dispatch_key("gdn::chunk", key)
        if found:  # a library with kernels may still be loaded
            _has_kernel[device] = True
    return found


# What torch.compiler.assume_constant_result does, without the second that its import takes: code
# that is traced asks too, and there is nothing to trace.
has_kernel._dynamo_marked_constant = True


def _gpu_has_kernel(device):
    if without_cuda is not None or not torch.cuda.is_available():
        return False
    index = torch.cuda.current_device() if device.index is None else device.index
    device = torch.device("cuda", index)
    if device not in _has_kernel:
        why_not = torch.ops.gdn._gpu_status(index)
        _has_kernel[device] = not why_not
        if why_not:
            warnings.warn(f"gdn: tensor operations run on {device}: {why_not}")
    return _has_kernel[device]


_out_of_range = {}


def out_of_range(device="cuda"):
    """A tensor on this GPU, int32 [1], that the operators set to 1 when they come upon a value of
    cu_seqlens, indices or num_accepted that is out of range. (On the CPU that is an IndexError; on a
    GPU the values are seen by the kernels alone, which take them for padding.) From the first
    call on, which is not to be one in a captured graph; to read it waits for the device. Nothing
    sets it to 0 but its reader.

    flag = gdn.out_of_range("cuda")
    ...
    if flag.item():
        flag.zero_()
        raise IndexError

    Raises NotImplementedError for a device on which there is no such flag.
    """
    device = torch.device(device)
    if device.type != "cuda" or not has_kernel(device):
        raise NotImplementedError(
            f"gdn.out_of_range: the device is {device}, expected a GPU with a kernel"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _out_of_range:
        flag = torch.zeros(1, dtype=torch.int32, device=torch.device("cuda", index))
        torch.ops.gdn._out_of_range_flag(flag)
        _out_of_range[index] = flag
    return _out_of_range[index]


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
