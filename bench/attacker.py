"""python -m bench.attacker: a hostile client as a process of its own, told what to do by lines.

`attack DOOR NUMBER PORT SECONDS` attacks anew whenever it is closed; `burn SHARE SECONDS` takes
this share of a processor and talks to nobody. Each answers with the processor seconds it took.
"""

import sys
import time

from bench import attacks_http2, attacks_redis
from bench.attacks import connect, fight

ATTACKS = {"grpc": attacks_http2.ATTACKS, "redis": attacks_redis.ATTACKS}
# An attack that has done its worst and waits is made again.
_QUIET_S = 0.2
_SLICE_S = 0.005


def attack(door: str, number: int, port: int, seconds: float) -> None:
    """One connection after the other."""
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0:
        try:
            with connect(("127.0.0.1", port)) as sock:
                fight(ATTACKS[door][number], sock, for_s=left_s, quiet_s=_QUIET_S)
        except OSError:  # turned away: it goes on trying
            time.sleep(_SLICE_S)


def burn(share: float, seconds: float) -> None:
    """So much of a processor, evenly."""
    end = time.monotonic() + seconds
    spent_before = time.process_time()
    began = time.monotonic()
    while (now := time.monotonic()) < end:
        if time.process_time() - spent_before < share * (now - began):
            sum(range(2_000))
        else:
            time.sleep(_SLICE_S)


def main() -> int:
    """Obeys until its standard input ends."""
    for line in sys.stdin:
        verb, *words = line.split()
        before = time.process_time()
        if verb == "attack":
            door, number, port, seconds = words
            attack(door, int(number), int(port), float(seconds))
        else:
            burn(*map(float, words))
        print(time.process_time() - before, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
