"""A shared object of native/, built by environment.py."""

import ctypes
import os
import pathlib


def load(name):
    return ctypes.CDLL(str(pathlib.Path(os.environ["GDN_PEERS_NATIVE"]) / "lib" / f"lib{name}.so"))
