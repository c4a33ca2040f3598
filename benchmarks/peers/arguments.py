"""What the command lines of peers_cpu.py and peers_gpu.py share."""

import argparse


def words(allowed):
    """A parser of "one,two" whose words are all among the allowed ones."""

    def parse(text):
        found = text.split(",")
        for word in found:
            if word not in allowed:
                raise argparse.ArgumentTypeError(f"{word} is none of {', '.join(allowed)}")
        return found

    return parse
