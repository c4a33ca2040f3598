"""What a peer is: a module with NAME, version(), prefill(inputs, threads) and decode(inputs, pool, threads). The last
two return a Call, or None where the peer has no such operator or dtype."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Call:
    run: Callable  # run(turn): what is timed. turn counts from 0; a rotating decode takes another slot each
    result: Callable  # result(sequence) -> (out [T,HV,V], state [HV,V,K]) of run(0), the first
    note: str = ""  # what differs from the other peers' work
    layout: str = "vk"  # decode: of the states in the pool,
    indexed: bool = True  # and whether sequences have slots, or the pool's order
    checked: bool = True  # whether there is a result to compare


def packed_result(ranges, out, states):
    """result() of a prefill whose out() is [tokens,HV,V] and states() [N,HV,V,K]."""
    return lambda n: (out()[ranges[n][0] : ranges[n][1]], states()[n])
