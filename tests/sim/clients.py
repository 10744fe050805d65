"""Clients: each asks one thing after another of some sidecar, and repeats what ended UNKNOWN."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Protocol

from buckets.bucket_map import Consistency
from sidecar.core.session_ops import NEW
from tests.sim.history import UNKNOWN, History, Op
from tests.sim.network import Network
from tests.sim.server import START_MS
from tests.sim.sidecar import SimSidecar

THINK_S = 0.12
TIMEOUTS_S = (0.05, 0.3, 1.0, 1.0, 3.0)
WRITE_SHARE = 0.45
DELETE_SHARE = 0.15
EXPIRY_SHARE = 0.05
HOP_SHARE = 0.15
REPEAT_SHARE = 0.6

# (level, weight): most are of the levels that promise most.
_LEVELS = (
    (Consistency.QUORUM, 70),
    (Consistency.EACH_QUORUM, 5),
    (Consistency.ALL, 5),
    (Consistency.ONE, 10),
    (Consistency.LOCAL_ONE, 5),
    (Consistency.LOCAL_QUORUM, 5),
    (Consistency.ANY, 5),  # of reads: ONE
)
_CHOICES = tuple(level for level, _ in _LEVELS)
_WEIGHTS = tuple(weight for _, weight in _LEVELS)


class Surroundings(Protocol):
    """What a client needs of the run."""

    network: Network
    history: History
    rng: Random
    sidecars: list[SimSidecar]
    keys: list[bytes]
    waiting: dict[int, Callable[[], None]]  # called when the operation of this number has ended


class Client:
    """One client; `left` operations are still to be asked."""

    def __init__(self, run: Surroundings, number: int, left: int) -> None:
        self.name = f"c{number}"
        self._run = run
        self._left = left
        self._home = run.sidecars[number % len(run.sidecars)]
        self._token = NEW if number % 2 else b""  # every other client is in a session

    def think(self) -> None:
        """The next operation comes after a pause."""
        if self._left > 0:
            self._left -= 1
            pause_s = self._run.rng.expovariate(1 / THINK_S)
            self._run.network.schedule.after(pause_s, self._next)

    def _next(self) -> None:
        rng = self._run.rng
        if rng.random() < HOP_SHARE:
            self._home = rng.choice(self._run.sidecars)
        write = rng.random() < WRITE_SHARE
        key, level = rng.choice(self._run.keys), rng.choices(_CHOICES, _WEIGHTS)[0]
        op = self._op(write, key, level if write or level != Consistency.ANY else Consistency.ONE)
        if write and rng.random() >= DELETE_SHARE:
            op.value = b"v%d" % op.number
        expires_at_ms = 0
        if op.value is not None and rng.random() < EXPIRY_SHARE:
            now_ms = START_MS + round(self._run.network.schedule.now * 1000)
            expires_at_ms = now_ms + rng.randint(1, 3000)
        op.expires_at_ms = expires_at_ms
        self._ask(op, expires_at_ms)

    def _op(self, write: bool, key: bytes, level: int) -> Op:
        history = self._run.history
        began = history.next_step()
        if self._token and not write and level == Consistency.ONE:
            level = Consistency.SESSION
        return Op(
            number=len(history.ops) + 1,
            client=self.name,
            sidecar=self._home.name,
            write=write,
            key=key,
            level=level,
            began=began,
            began_s=self._run.network.schedule.now,
            token=self._token,
        )

    def _ask(self, op: Op, expires_at_ms: int) -> None:
        self._run.history.ops.append(op)
        self._run.waiting[op.number] = partial(self.ended, op)
        self._run.network.trace(self.name, "asks %s", op)
        self._home.submit(op, self._run.rng.choice(TIMEOUTS_S), expires_at_ms)

    def ended(self, op: Op) -> None:
        """Its operation has ended: repeat it, perhaps elsewhere, or go on."""
        rng = self._run.rng
        self._token = op.token
        again = op.write and op.outcome == UNKNOWN and not op.orphaned
        if again and op.version and rng.random() < REPEAT_SHARE:
            self._home = rng.choice(self._run.sidecars)
            self._run.network.schedule.after(0.01, self._repeat, op)
        else:
            self.think()

    def _repeat(self, op: Op) -> None:
        repeat = self._op(True, op.key, op.level)
        repeat.value, repeat.version, repeat.fresh = op.value, op.version, False
        self._ask(repeat, 0)
