"""Operations of one session: each is compared with what the session has met, and then added to it.

A read that finds less is repeated at QUORUM, and refused as stale when that finds less too. This
stands before the coordinator, which knows nothing of sessions: an operation goes through it as any
other, perhaps twice. Operations on one key take turns within their session, for what an earlier one
will meet a later one has to know; so a pipeline reads what it has just written.

In linearizable keyspaces every read sees all that ended before it, whoever did it: there is nothing
to compare, and their keys need no room in the token.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from buckets.bucket_map import BucketMap, Consistency
from replicas.version import HybridClock
from sidecar.core.levels import SETTLING_LEVELS, WRITE_LEVELS
from sidecar.core.operation import GroupWrite, Read, Write
from sidecar.core.route import Route
from sidecar.core.sessions import Seen, SessionKeys, no_keys, place_of, stale, waited_too_long
from sidecar.errors import DataError

USUAL_SKEW_MS = 500  # while there is no map that says otherwise
NEW = b"new"  # in the place of a token: a session begins, and the answer carries its first token


class Core(Protocol):
    """The coordinator, as far as sessions need it."""

    now: float
    clock: HybridClock
    map: BucketMap | None

    def read(self, op: Read, /) -> None:
        """Run a read."""

    def write(self, op: Write, /) -> None:
        """Run a put or a delete."""

    def transact(self, op: GroupWrite, /) -> None:
        """Write several keys together."""

    def reject(self, op: Any, error: DataError, /) -> None:
        """Answer with an error."""

    def route_of(self, keyspace: str, key: bytes, /) -> Route | None:
        """The key's bucket in the present map; None: no such keyspace in it, or no map."""

    def is_linearizable(self, keyspace: str, /) -> bool:
        """Whether the keyspace is in the map, and of that mode."""


class Sessions:
    """Opens sessions. `keys` None: this sidecar has nothing to sign with."""

    def __init__(
        self, core: Core, wall_ms: Callable[[], int], keys: SessionKeys | None = None
    ) -> None:
        self._core = core
        self._wall_ms = wall_ms
        self.keys = keys

    def open(self, token: bytes) -> "Session | DataError":
        """The session that the token stands for; a new one for `NEW` and for nothing."""
        if self.keys is None:
            return no_keys()
        if not token or token == NEW:
            return Session(self._core, self.keys, Seen())
        seen = self.keys.open(token, self._wall_ms() + self._max_skew_ms())
        return seen if isinstance(seen, DataError) else Session(self._core, self.keys, seen)

    def _max_skew_ms(self) -> int:
        """What the most tolerant keyspace allows: a token may be of several."""
        keyspaces = self._core.map.keyspaces.values() if self._core.map is not None else ()
        allowed = (keyspace.settings.max_skew_ms for keyspace in keyspaces)
        return max(allowed, default=USUAL_SKEW_MS)


class Session:
    """One client's session. `read` and `write` are used as the coordinator's."""

    def __init__(self, core: Core, keys: SessionKeys, seen: Seen) -> None:
        self.core = core
        self.seen = seen
        self._keys = keys
        self._turns: dict[int, deque[_ReadTurn | _WriteTurn]] = {}  # by place: who waits
        self._due: deque[_ReadTurn | _WriteTurn] = deque()
        self._starting = False

    def token(self) -> bytes:
        """What the client brings next time: all that has been answered so far is in it."""
        return self._keys.sign(self.seen)

    def read(self, op: Read) -> None:
        """Run a read; `op.done` is called once, perhaps before this returns."""
        if not self.core.is_linearizable(op.keyspace):
            self._take_turn(_ReadTurn(self, op))
            return
        if op.level == Consistency.SESSION:
            op.level = Consistency.UNSPECIFIED
        self.core.read(op)

    def write(self, op: Write) -> None:
        """Run a put or a delete; `op.done` is called once, perhaps before this returns."""
        if self.core.is_linearizable(op.keyspace):
            self.core.write(op)
        else:
            self._take_turn(_WriteTurn(self, op, [place_of(op.keyspace, op.key)]))

    def transact(self, op: GroupWrite) -> None:
        """Run a write of several keys; `op.done` is called once, perhaps before this returns.

        Only the first of its keys takes its turn: use the session for nothing else meanwhile.
        """
        places = [place_of(op.keyspace, item.key) for item in op.items]
        self._take_turn(_WriteTurn(self, op, places or [place_of(op.keyspace, op.key)]))

    def _take_turn(self, turn: "_ReadTurn | _WriteTurn") -> None:
        queue = self._turns.get(turn.place)
        if queue is not None:
            queue.append(turn)
            return
        self._turns[turn.place] = deque()
        self._soon(turn)

    def next_turn(self, place: int) -> None:
        """An operation has been answered: the next on its key begins."""
        queue = self._turns[place]
        if queue:
            self._soon(queue.popleft())
        else:
            del self._turns[place]

    def _soon(self, turn: "_ReadTurn | _WriteTurn") -> None:
        """Start it, but never from within another's start: a long queue of operations that fail at
        once would be as many calls deep."""
        self._due.append(turn)
        if self._starting:
            return
        self._starting = True
        try:
            while self._due:
                self._due.popleft().start()
        finally:
            self._starting = False


class _ReadTurn:
    """A read from its turn to its answer."""

    __slots__ = ("asked", "done", "kept", "op", "place", "session")

    def __init__(self, session: Session, op: Read) -> None:
        self.session = session
        self.op = op
        self.place = place_of(op.keyspace, op.key)
        self.asked = op.level
        self.kept = False
        self.done: Callable[[Read], None] = op.done

    def start(self) -> None:
        """Its turn: ask one owner, or as many as were asked for."""
        op, session = self.op, self.session
        self.done, op.done = op.done, self._ended  # whoever cancels it takes `done` away
        self.kept = session.seen.begin(self.place)
        if op.deadline <= session.core.now:
            session.core.reject(op, waited_too_long(op.keyspace))
            return
        if op.level == Consistency.SESSION:
            op.level = Consistency.ONE
        if not self.kept and op.level not in SETTLING_LEVELS:
            op.level = Consistency.QUORUM
        session.core.read(op)

    def _ended(self, op: Read) -> None:
        if op.error is None and not self._new_enough(op):
            if op.level not in SETTLING_LEVELS:
                self._escalate(op)
                return
            op.record = None
            op.done = self._refused
            level = Consistency(op.level).name
            self.session.core.reject(op, stale(op.keyspace, level))
            return
        self._answer(op, op.version if op.error is None else b"")

    def _new_enough(self, op: Read) -> bool:
        needed = self.session.seen.needed(self.place)
        if op.version >= needed:
            return self.kept or op.level in SETTLING_LEVELS
        # No record and no tombstone: what the session met was deleted since, if the tombstones of
        # its time are gone.
        route = self.session.core.route_of(op.keyspace, op.key)
        return not op.version and route is not None and needed <= route.gone_through()

    def _escalate(self, op: Read) -> None:
        op.level = Consistency.QUORUM
        op.record = None
        op.version = b""
        self.session.core.read(op)

    def _refused(self, op: Read) -> None:
        self._answer(op, b"")

    def _answer(self, op: Read, version: bytes) -> None:
        session = self.session
        session.seen.end(self.place, version)
        if self.asked == Consistency.SESSION and op.level == Consistency.ONE:
            op.level = Consistency.SESSION
        op.done = self.done
        op.done(op)
        session.next_turn(self.place)


class _WriteTurn:
    """A write from its turn to its answer."""

    __slots__ = ("done", "op", "place", "places", "session")

    def __init__(self, session: Session, op: Write, places: list[int]) -> None:
        self.session = session
        self.op = op
        self.place = places[0]
        self.places = places
        self.done: Callable[[Write], None] = op.done

    def start(self) -> None:
        """Its turn: to all owners, as ever. Without room in the token it waits for a majority."""
        op, session = self.op, self.session
        self.done, op.done = op.done, self._ended
        kept = all(session.seen.begin(place) for place in self.places)
        if op.deadline <= session.core.now:
            session.core.reject(op, waited_too_long(op.keyspace))
            return
        known = not op.level or op.level in WRITE_LEVELS  # any other is refused as it is
        if not kept and known and self._level(op) not in SETTLING_LEVELS:
            op.level = Consistency.QUORUM
        # A clock that is behind would put the write below what its writer has met. The token was
        # not opened if it is further ahead than replicas allow.
        for place in self.places:
            session.core.clock.merge(session.seen.newest(place))
        if isinstance(op, GroupWrite):
            session.core.transact(op)
        else:
            session.core.write(op)

    def _level(self, op: Write) -> int:
        route = self.session.core.route_of(op.keyspace, op.key)
        if op.level or route is None:
            return op.level
        return route.settings.write_consistency

    def _ended(self, op: Write) -> None:
        for place in self.places:
            self.session.seen.end(place, op.version if op.error is None else b"")
        op.done = self.done
        op.done(op)
        self.session.next_turn(self.place)
