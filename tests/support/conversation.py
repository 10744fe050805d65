"""A Redis conversation without a socket: what a client sends, and the bytes it would be sent."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sidecar.redis.limits import RespLimits
from sidecar.redis.plain_gets import PlainGets
from sidecar.redis.session import Door, Session
from sidecar.redis.table import command_table
from sidecar.rights import STRANGER, Peer, Rights
from tests.support.memory_coordinator import MemoryCoordinator

START_MS = 1_800_000_000_000


def packed(*args: bytes | str) -> bytes:
    """A command as clients send it; str is taken as UTF-8."""
    raw = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in raw)


@dataclass
class Clock:
    """Unix milliseconds that stand still until a test moves them."""

    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms


@dataclass
class Stopwatch:
    """Seconds that stand still, or pass with every look at them: each command takes one."""

    look_s: float = 0.0
    now_s: float = 0.0

    def __call__(self) -> float:
        self.now_s += self.look_s
        return self.now_s


@dataclass
class Conversation:
    """One connection to a door over an in-memory coordinator with keyspaces `default`, `other`."""

    limits: RespLimits = field(default_factory=RespLimits)
    clock: Clock = field(default_factory=Clock)
    now: float = 100.0
    rights: Rights | None = None
    peer: Peer = STRANGER
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def __post_init__(self) -> None:
        self.coordinator = MemoryCoordinator({0: "default", 1: "other"}, self.clock)
        self.woken = 0
        self.door = Door(
            self.coordinator,
            command_table(),
            limits=self.limits,
            wall_ms=self.clock,
            wake=self._wake,
            monotonic=lambda: self.now,
            rights=self.rights,
            stopwatch=self.stopwatch,
        )
        self._soon: list[Callable[[], None]] = []
        self.plain_gets = PlainGets(self.door, self._soon.append, self._answer)
        self.session = self.another()

    def another(self) -> Session:
        """One more connection to the same door."""
        session = Session(self.door, self.now, "127.0.0.1:5000", "127.0.0.1:6379", peer=self.peer)
        self.door.sessions[session.id] = session
        return session

    def send(self, *args: bytes | str) -> bytes:
        """Send a command, take what is due."""
        return self.send_bytes(packed(*args))

    def send_bytes(self, data: bytes) -> bytes:
        """Send anything, take what is due."""
        self.feed(data)
        self.end_turn()
        return self.take()

    def feed(self, data: bytes, session: Session | None = None) -> None:
        """Bytes arrive, as the door hands them on."""
        session = session or self.session
        if not self.plain_gets.take(session, data, self.now):
            session.feed(data, self.now)

    def end_turn(self) -> None:
        """What was asked in this turn of the loop goes out."""
        soon, self._soon[:] = self._soon[:], []
        for call in soon:
            call()

    def _answer(self, session: Session, reply: bytes) -> None:
        session.out.append(reply)
        session.mark_dirty()

    def take(self) -> bytes:
        """What is due now, as the door would fetch it turn by turn until nothing changes."""
        taken = [self.session.take_output()]
        while (self.session.backlog or self.session.unread) and not self.session.output_paused:
            waiting = self._waiting()
            self.session.advance(self.now)
            taken.append(self.session.take_output())
            if self._waiting() == waiting:
                break
        return b"".join(taken)

    def _waiting(self) -> tuple[int, int]:
        return len(self.session.unread), len(self.session.backlog)

    def _wake(self, _session: Session) -> None:
        self.woken += 1
