"""Plain GETs and nothing else: what most clients send most of the time, in the fewest steps.

One alone is read together with those of other connections: where many clients ask one thing at a
time, each turn of the loop finds some of them, and their GETs become one batch for each replica
that is asked, so that strangers share what a batch costs. A pipeline of them is a batch as it is.

A connection takes part while it waits for nothing; any other conversation goes through
`Session.feed`, and nobody notices a difference but in speed.
"""

from collections.abc import Callable

from sidecar.core.fast_lane import ReadBatch
from sidecar.core.operation import Read
from sidecar.redis.backend import Backend
from sidecar.redis.command import Family
from sidecar.redis.session import Door, Session
from sidecar.redis.slices import SLICE_BYTES

_READ = int(Family.READ)


class PlainGets:
    """Those of one door. `soon` runs what it is given when the requests of this turn have been
    taken; `answer` sends the only reply that a session owes its client.
    """

    __slots__ = ("_answer", "_backend", "_counters", "_deadline", "_join", "_soon", "_turn_over")

    def __init__(
        self,
        door: Door,
        soon: Callable[[Callable[[], None]], object],
        answer: Callable[[Session, bytes], None],
    ) -> None:
        self._backend: Backend = door.backend
        self._join = door.backend.join_batch
        self._counters = door.counters
        self._soon = soon
        self._answer = answer
        self._turn_over = True
        self._deadline = 0.0

    def take(self, session: Session, data: bytes, now: float) -> bool:
        """Take all that a client sent, if it is plain GETs; False: it is for `session.feed`."""
        pending = session.pending
        if (
            pending
            or session.backlog
            or session.unread
            or session.closing
            or session.muted
            or not session.gets
            or session.tokens is not None
        ):
            return False
        key = session.parser.lone_get(data)
        if key is None:
            return self._take_many(session, data, now)
        if self._turn_over:
            self._turn_over = False
            self._deadline = now + self._backend.default_timeout_ms * 0.001
            self._soon(self._end_turn)
        lone = session.lone
        lone.asker = self
        lone.keyspace = session.keyspace
        lone.level = session.level
        lone.key = key
        lone.tag = None
        pending.append(lone)
        session.reading.add(key)
        if not self._join(lone, self._deadline):
            pending.clear()
            session.reading.clear()
            return False
        session.last_at = now
        session.last_command = b"GET"
        counters = self._counters
        counters.bytes_in += len(data)
        counters.calls[_READ] += 1
        return True

    def _take_many(self, session: Session, data: bytes, now: float) -> bool:
        keys = session.parser.gets(data) if len(data) <= SLICE_BYTES else None
        if keys is None or len(keys) > session.in_flight_limit:
            return False
        session.last_at = session.held_since = now
        session.last_command = b"GET"
        session.deadline = now + self._backend.default_timeout_ms * 0.001
        self._counters.bytes_in += len(data)
        late = session.read_together(keys)
        if late:
            session.put_back(late)
        return True

    def _end_turn(self) -> None:
        self._turn_over = True
        self._backend.end_turn()

    def batch_read(self, batch: ReadBatch) -> None:
        """Part of Asker."""
        for lone, value in zip(batch.tag, batch.values, strict=True):
            session = lone.session
            pending = session.pending
            reply = session.nil if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
            if len(pending) == 1 and session.awaited is None:
                pending.clear()
                session.reading.clear()
                self._answer(session, reply)
            elif pending:  # otherwise the client is gone
                lone.tag = reply
                session.release()

    def batch_dissolved(self, batch: ReadBatch, reads: list[Read]) -> None:
        """Part of Asker."""
        for lone, op in zip(batch.tag, reads, strict=True):
            op.done = lone.session.on_value
            lone.session.replace_lone(op)
