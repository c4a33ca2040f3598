"""What memory gives: each of the machine's in-place loops reads and writes the states of a decode once, in the same
memory and on as many threads. Not one peer but several: loops() names them."""

import ctypes

from .native_library import load
from .peer import Call

library = load("gdn_memory_loops")
library.memory_loop_name.restype = ctypes.c_char_p
library.memory_loop_run.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Loop:
    def __init__(self, index):
        self.index = index
        self.NAME = f"memory loop, {library.memory_loop_name(index).decode()}"

    def version(self):
        return ""

    def prefill(self, inputs, threads):
        return None

    def decode(self, inputs, pool, threads):
        slot_bytes = pool.memory.nbytes // (pool.slots + 1)
        n = inputs.work.sequences
        start = pool.memory.data_ptr() + slot_bytes
        turns = pool.slots // n

        def run(turn):
            library.memory_loop_run(self.index, start + turn % turns * n * slot_bytes, n * slot_bytes, threads)

        return Call(run, None, checked=False)


def loops():
    return [Loop(i) for i in range(library.memory_loop_count())]
