"""What a peer is on a GPU: a module, or an object, with NAME, version(), prefill(inputs) and decode(inputs). The last
two return its calls, of which the fastest counts; none where the peer has no such operator or dtype."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Call:
    run: Callable  # run(copy): what is timed, on one copy of the inputs; returns what it made
    result: Callable  # result(made) -> (out [tokens,HV,V], states [N,HV,V,K]) of copy 0
    note: str = ""  # what sets it apart from the peer's other calls
    errors: tuple = ()  # relative L2, of output and states, once it has been checked
