"""From the RuntimeError of an operator to the exception that a Python function raises, with the
same message."""

import re

import torch

# The codes of gdn/status.h.
_EXCEPTIONS = {
    1: ValueError,  # kInvalidArgument
    2: IndexError,  # kOutOfRange: a value stored in a tensor
    3: NotImplementedError,  # kUnsupported
    4: MemoryError,  # kOutOfMemory
}

# How PyTorch's messages begin where the arguments are not even what the schema asks for.
_MALFORMED = re.compile(
    r"Unknown keyword argument|gdn::\w+\(\) (Expected|expected|is missing|takes)"
)


def _on_another_device(schema, args, kwargs):
    """The message for the first tensor that is not where the first argument is; None where all
    are."""
    names = [argument.name for argument in schema.arguments]
    given = {**dict(zip(names, args)), **kwargs}
    first = given[names[0]]
    for name, value in given.items():
        if isinstance(value, torch.Tensor) and value.device != first.device:
            operator = schema.name.removeprefix("gdn::")
            got = f"gdn.{operator}: {name} is on {value.device}"
            return f"{got}, expected {first.device}, where {names[0]} is"
    return None


def translated(error, schema, args, kwargs):
    """The exception to raise in place of `error`, which the operator of that schema has raised;
    `error` itself where it is no mistake of the caller's that the library found."""
    message = str(error)
    if _MALFORMED.match(message):
        return TypeError(message)
    if not message.startswith(("gdn.", "gdn: ")):
        # PyTorch looks for a kernel by all tensors' devices, and may have found none.
        elsewhere = (
            _on_another_device(schema, args, kwargs)
            if isinstance(error, NotImplementedError)
            else None
        )
        return error if elsewhere is None else ValueError(elsewhere)
    if " requires a gradient, " in message:
        return error
    if " has dtype " in message:
        return TypeError(message)
    if " is on " in message:
        return ValueError(message)  # _fake.py
    if "could not allocate" in message and " on cuda:" in message:
        return torch.OutOfMemoryError(message)  # what PyTorch raises for a GPU's memory
    return _EXCEPTIONS.get(torch.ops.gdn.last_status(), RuntimeError)(message)
