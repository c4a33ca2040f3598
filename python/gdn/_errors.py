"""From the RuntimeError of an operator to the exception that a Python function raises, with the same message."""

import torch

# The codes of gdn/status.h.
_EXCEPTIONS = {
    1: ValueError,  # kInvalidArgument
    2: IndexError,  # kOutOfRange: a value stored in a tensor
    3: NotImplementedError,  # kUnsupported
    4: MemoryError,  # kOutOfMemory
}


def translated(error):
    """The exception to raise in place of `error`, which an operator has raised; `error` itself where it is no
    mistake of the caller's that the library found."""
    message = str(error)
    if not message.startswith("gdn."):
        # PyTorch found that an argument is not even of the kind that the schema asks for.
        return TypeError(message) if message.startswith("gdn::") and "Expected a value of type" in message else error
    if " has dtype " in message:
        return TypeError(message)
    if " is on " in message:
        return ValueError(message)  # _fake.py
    return _EXCEPTIONS.get(torch.ops.gdn.last_status(), RuntimeError)(message)
