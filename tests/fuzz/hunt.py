"""Feeds targets until one falls; what it fell over is kept in the corpus and tried ever after."""

import hashlib
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

from tests.fuzz.mutate import CORPUS, corpus_of, cut, mutated
from tests.fuzz.targets import TARGETS

# An input of at most 16 KiB takes milliseconds, and some hundred in single bytes.
HANG_S = 20.0
_SHOWN = 20


class Hung(Exception):
    """An input that does not come to an end."""


@dataclass(frozen=True)
class Fallen:
    """An input that a target fell over, and how."""

    target: str
    data: bytes
    how: str

    def keep(self) -> Path:
        """Puts it into the corpus."""
        path = CORPUS / self.target / f"crash-{hashlib.sha256(self.data).hexdigest()[:12]}"
        path.write_bytes(self.data)
        return path


def try_one(target: str, data: bytes, dice: Random) -> Fallen | None:
    """Feeds it whole and in pieces. Only in the main thread: a timer watches."""
    run = TARGETS[target]
    try:
        with _watched():
            whole = run([data])
            for _ in range(2):
                pieces = cut(dice, data)
                if run(pieces) != whole:
                    sizes = [len(piece) for piece in pieces[:_SHOWN]]
                    return Fallen(target, data, f"{len(pieces)} pieces differ: {sizes} ...")
    except Exception:  # noqa: BLE001 (whatever it is, it is found)
        return Fallen(target, data, traceback.format_exc())
    return None


def hunt(
    target: str, seed: int, *, inputs: int = 1 << 62, until_s: float = 1e18
) -> Iterator[Fallen]:
    """Whatever falls among so many inputs, or until then (by time.monotonic)."""
    dice = Random(f"{target} {seed}")
    corpus = [path.read_bytes() for path in corpus_of(target)]
    for _ in range(inputs):
        if time.monotonic() > until_s:
            return
        fallen = try_one(target, mutated(dice, corpus), dice)
        if fallen is not None:
            yield fallen


@contextmanager
def _watched() -> Iterator[None]:
    def hung(number: int, frame: FrameType | None) -> None:
        raise Hung(f"no end within {HANG_S} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
