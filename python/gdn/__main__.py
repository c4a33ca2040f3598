"""python -m gdn: what this build and this machine have, as `gdn info` prints it."""

import gdn

print(gdn.info(), end="")
