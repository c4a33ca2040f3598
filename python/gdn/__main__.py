"""python -m gdn: what this build and this machine have, as `gdn info` prints it."""

import argparse

import gdn

argparse.ArgumentParser(
    prog="python -m gdn",
    description="Prints what `gdn info` prints: version, processor, threads, kernels, and which of "
    "them is chosen and why.",
).parse_args()
print(gdn.info(), end="")
