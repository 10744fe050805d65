"""python -m tests.fuzz --seconds 60: every parser fed with mutated inputs, whole and in pieces.

What falls is printed and kept in tests/fuzz/corpus, where every run of the tests tries it again.
"""

import argparse
import sys
import time
from itertools import islice

from tests.fuzz.hunt import hunt
from tests.fuzz.targets import TARGETS

_MOST_FALLEN = 5


def main() -> int:
    """Status 1: something fell."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="all targets together")
    parser.add_argument("--seed", type=int, default=None, help="default: another each time")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    targets = options.target or sorted(TARGETS)
    sys.stdout.write(f"seed {seed}\n")
    fell = False
    for target in targets:
        until_s = time.monotonic() + options.seconds / len(targets)
        fallen = list(islice(hunt(target, seed, until_s=until_s), _MOST_FALLEN))
        for one in fallen:
            sys.stdout.write(f"{target}: kept as {one.keep()}\n{one.how}\n")
        sys.stdout.write(f"{target}: {'fell' if fallen else 'stands'}\n")
        fell = fell or bool(fallen)
    return int(fell)


if __name__ == "__main__":
    sys.exit(main())
