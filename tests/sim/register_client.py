"""Clients of linearizable keys: they change what stands, and repeat under the same operation id."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Protocol

from buckets.bucket_map import Consistency
from sidecar.core.register_op import new_operation_id
from tests.sim.history import OK, UNKNOWN, History
from tests.sim.network import Network
from tests.sim.register_history import COUNTER, LIST, REGISTER, RegisterOp
from tests.sim.server import START_MS
from tests.sim.sidecar import SimSidecar

THINK_S = 0.12
TIMEOUTS_S = (0.05, 0.3, 1.0, 1.0, 3.0)
HOP_SHARE = 0.15
REPEAT_SHARE = 0.8
OWN_ID_SHARE = 0.7
EXPIRY_SHARE = 0.1
BY_VERSION_SHARE = 0.5
KINDS = {
    REGISTER: ("get", "get", "get", "put", "put", "compare", "compare", "compare", "delete"),
    COUNTER: ("get", "add", "add"),
    LIST: ("get", "append", "append"),
}


class Surroundings(Protocol):
    """What a client needs of the run."""

    network: Network
    history: History
    rng: Random
    sidecars: list[SimSidecar]
    keys: list[bytes]
    waiting: dict[int, Callable[[], None]]  # called when the operation of this number has ended


class RegisterClient:
    """One client; `left` operations are still to be asked."""

    def __init__(self, run: Surroundings, number: int, left: int) -> None:
        self.name = f"c{number}"
        self._run = run
        self._left = left
        self._home = run.sidecars[number % len(run.sidecars)]
        self._seen: dict[bytes, RegisterOp] = {}  # by key: what it knows to have stood lately

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
        key = rng.choice(self._run.keys)
        op = self._op(key, rng.choice(KINDS[key[:1]]))
        op.first = op.number
        if op.kind in ("put", "compare"):
            op.value = b"v%d" % op.number
            if rng.random() < EXPIRY_SHARE:
                op.expires_at_ms = self._now_ms() + rng.randint(1, 2000)
        elif op.kind == "append":
            op.value = b"%d," % op.number
        elif op.kind == "add":
            op.value = b"1"
        if op.kind == "compare":
            self._expect(op)
        if op.write and rng.random() < OWN_ID_SHARE:
            op.operation_id = new_operation_id(self._home.wall_ms, rng.randbytes(10))
        self._ask(op)

    def _expect(self, op: RegisterOp) -> None:
        """What this client has seen last, which may be long ago; or that there is nothing."""
        seen = self._seen.get(op.key)
        if seen is not None:
            op.expected = seen.found
            if seen.found is not None and self._run.rng.random() < BY_VERSION_SHARE:
                op.expected_version = seen.version

    def _op(self, key: bytes, kind: str) -> RegisterOp:
        history = self._run.history
        began = history.next_step()
        return RegisterOp(
            number=len(history.ops) + 1,
            client=self.name,
            sidecar=self._home.name,
            write=kind != "get",
            key=key,
            level=Consistency.UNSPECIFIED,
            began=began,
            began_s=self._run.network.schedule.now,
            kind=kind,
        )

    def _now_ms(self) -> int:
        return START_MS + round(self._run.network.schedule.now * 1000)

    def _ask(self, op: RegisterOp) -> None:
        self._run.history.ops.append(op)
        self._run.waiting[op.number] = partial(self.ended, op)
        self._run.network.trace(self.name, "asks %s", op)
        self._home.submit(op, self._run.rng.choice(TIMEOUTS_S))

    def ended(self, op: RegisterOp) -> None:
        """Its operation has ended: repeat it, perhaps elsewhere, or go on."""
        rng = self._run.rng
        if op.known and op.outcome == OK:
            self._seen[op.key] = op
        lost = op.orphaned and not op.operation_id  # nobody has told under which id
        if op.write and op.outcome == UNKNOWN and not lost and rng.random() < REPEAT_SHARE:
            self._home = rng.choice(self._run.sidecars)
            self._run.network.schedule.after(rng.choice((0.01, 0.3)), self._repeat, op)
        else:
            self.think()

    def _repeat(self, op: RegisterOp) -> None:
        repeat = self._op(op.key, op.kind)
        repeat.first, repeat.operation_id, repeat.fresh = op.first, op.operation_id, False
        repeat.value, repeat.expires_at_ms = op.value, op.expires_at_ms
        repeat.expected, repeat.expected_version = op.expected, op.expected_version
        self._ask(repeat)
