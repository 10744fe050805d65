"""One connection's conversation: its settings, its requests under way, its replies in order.

Sans-I/O: `feed` takes bytes, `take_output` gives bytes, and the door's `wake` is called once when
there is something to send. No task, future or closure stands behind a request: a slotted operation
waits in `pending` until those before it are answered; its `tag` becomes the reply's bytes.

A write waits until reads of its key that stand before it are answered, and what follows waits with
it. A slow read asks one more owner, where the write may have arrived: it would tell the future.

One connection takes little of a turn of the loop: what it sent beyond that waits, as bytes in
`unread` and as commands in `backlog`, and reading stops meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from buckets.bucket_map import Consistency
from sidecar.core import session_ops
from sidecar.core.count import Count
from sidecar.core.fast_lane import ReadBatch
from sidecar.core.operation import Read, Write
from sidecar.core.register_op import Modify
from sidecar.core.scan import Scan, Scanner
from sidecar.errors import DataError
from sidecar.redis import replies
from sidecar.redis.backend import Backend, WallClock
from sidecar.redis.command import Command, Family, by_spelling
from sidecar.redis.counters import RespCounters
from sidecar.redis.gather import Gather
from sidecar.redis.limits import RespLimits
from sidecar.redis.permits import Permits, Table
from sidecar.redis.slices import SLICE_BYTES, slices
from sidecar.redis.waiting import Due, LoneGet, Ready, cancel_all, keys_read, last_read
from sidecar.rights import STRANGER, Holder, Peer, Rights
from sidecar.wire import resp_reply as resp

ReadEncoder = Callable[["Session", Read], bytes]
GatherEncoder = Callable[["Session", Sequence[Any]], bytes]

_READ = int(Family.READ)  # looking it up in an enum takes as long as counting
_FIRST_IN_FLIGHT = 16  # until the size of replies is known
_LEAST_IN_FLIGHT = 2
LARGE_REPLY_BYTES = 4096  # alone in a turn, still worth a look at what may be under way
LONG_TURN_S = 0.002  # what one client may take of a turn of the loop
_MOST_READING = 4096  # keys of reads that are noted before answered ones are sorted out
_LONGEST_NAME = 64  # no command's name is longer; what is longer is not even folded to upper case


class ConversationOverError(Exception):
    """The client has said goodbye: what it sent after that is not looked at."""


class Door:
    """What all connections of a door share."""

    __slots__ = (
        "backend", "commands", "counters", "draining", "held_bytes", "info", "limits", "next_id",
        "permits", "sessions", "started_at", "stopwatch", "turn_s", "wake", "walker", "wall_ms",
        "writing",
    )  # fmt: skip

    def __init__(
        self,
        backend: Backend,
        commands: dict[str, Command],
        *,
        limits: RespLimits,
        wall_ms: WallClock,
        wake: Callable[["Session"], None],
        monotonic: Callable[[], float],
        stopwatch: Callable[[], float],
        rights: Rights | None = None,
    ) -> None:
        self.stopwatch = stopwatch  # seconds; unlike the loop's time it runs within a turn
        self.turn_s = LONG_TURN_S
        self.backend = backend
        self.walker = Scanner(backend, monotonic)
        self.commands = commands
        self.permits = Permits(commands, limits, rights)
        spelled = by_spelling(commands.values())
        self.writing = {name: known for name, known in spelled.items() if known.writes}
        self.limits = limits
        self.wall_ms = wall_ms
        self.wake = wake
        self.counters = RespCounters()
        self.sessions: dict[int, Session] = {}
        self.next_id = 1
        self.held_bytes = 0  # of commands that have not arrived whole
        self.started_at = wall_ms()
        self.draining = False
        self.info: dict[str, str] = {}  # facts for INFO that only the process knows


class Session:
    """One connection. `now` is loop time in seconds throughout."""

    __slots__ = (
        "address", "awaited", "backlog", "bound", "closing", "created_at", "db", "deadline",
        "dirty", "dispatch", "door", "gathering", "gets", "held_bytes", "held_since", "holder",
        "id", "in_flight_limit", "keyspace", "last_at", "last_command", "level", "library",
        "library_version", "local_address", "lone", "muted", "name", "nil", "on_derived",
        "on_modified", "on_value", "on_write", "out", "output_paused", "parser", "peer", "pending",
        "proof", "read", "read_batch", "reading", "shell", "tokens", "turn_ends", "unread",
        "version", "write", "write_level",
    )  # fmt: skip

    def __init__(
        self, door: Door, now: float, address: str = "", local: str = "", *, peer: Peer = STRANGER
    ) -> None:
        self.door = door
        self.id = door.next_id
        door.next_id += 1
        self.address = address
        self.local_address = local
        self.created_at = self.last_at = now
        self.parser = door.permits.parser()
        self.peer = peer
        self.holder: Holder | None = None  # the client, where there are rights
        self.dispatch: Table = {}  # what it may do
        self.gets: frozenset[bytes] = frozenset()  # spellings of GETs that may be read together
        # Bound once: a bound method for each request is an allocation for each request.
        self.read_batch = door.backend.read_batch
        self.on_value = self._on_value
        self.on_derived = self._on_derived
        self.on_write = self._on_write
        self.on_modified = self._on_modified
        self.unread: deque[bytes] = deque()  # received, and not yet parsed
        self.backlog: deque[list[bytes]] = deque()  # parsed, and not yet dispatched
        self.turn_ends = 0.0  # by the stopwatch
        self.pending: deque[Read | Write | Modify | Scan | Count | Gather | Ready | ReadBatch] = (
            deque()
        )
        self.lone = LoneGet(self)  # first in `pending`, or not under way
        # Keys of the reads in `pending`, and of answered ones: who reads adds to it.
        self.reading: set[bytes] = set()
        self.awaited: object = None  # of `pending`: what the next command waits for
        self.gathering = 0  # unanswered keys of commands on many keys, and of batches
        self.in_flight_limit = min(door.limits.in_flight, _FIRST_IN_FLIGHT)
        self.out: list[bytes] = []
        self.dirty = False  # `wake` was called, `take_output` not yet
        self.closing = False  # no more commands; closed once all is answered and sent
        self.output_paused = False
        self.held_bytes = 0
        self.held_since = now
        self.deadline = now
        self.last_command = b""
        self.shell: Any = None  # the door's own
        self.reset()

    def reset(self) -> None:
        """The settings of a new connection."""
        self.version = 2
        self.nil = resp.NIL[2]
        self.level = self.write_level = Consistency.UNSPECIFIED
        self.name = b""
        self.library = b""
        self.library_version = b""
        self.muted = 0  # replies to swallow: 1 the next, -1 all
        self.leave_session()
        self.proof = b""  # SHA-256 of the token that AUTH brought
        self.door.permits.recognize(self)
        self.select(0)

    def use_version(self, version: int) -> None:
        """2 or 3, as HELLO asks."""
        self.version = version
        self.nil = resp.NIL[version]

    def select(self, db: int) -> bool:
        """Work with the keyspace of number `db`; False when there is none."""
        keyspace = self.door.backend.keyspace_for_db(db)
        if keyspace is None and db != 0:
            return False
        # A connection may be older than the map: db 0 is then looked up again with each batch.
        self.bound = keyspace is not None
        self.keyspace = keyspace or "default"
        self.db = db
        self.door.permits.settle(self)
        return keyspace is not None

    def use_keyspace(self, keyspace: str) -> None:
        """Work with a keyspace by its name, which the caller has checked."""
        self.keyspace = keyspace
        self.bound = True
        self.db = -1
        self.door.permits.settle(self)

    def enter_session(self, tokens: session_ops.Session) -> None:
        """Read and write as the next of these."""
        self.tokens: session_ops.Session | None = tokens
        self.read: Callable[[Read], None] = tokens.read
        self.write: Callable[[Write], None] = tokens.write

    def leave_session(self) -> None:
        """Read and write without a session token."""
        self.tokens = None
        # Bound once: a bound method for each request is an allocation for each request.
        self.read = self.door.backend.read
        self.write = self.door.backend.write
        if self.level == Consistency.SESSION:
            self.level = Consistency.UNSPECIFIED

    # From the socket ---------------------------------------------------------------------------

    def feed(self, data: bytes, now: float) -> None:
        """Bytes from the client: run the commands they complete, as far as the limits let."""
        if self.closing:
            return
        parser, door = self.parser, self.door
        self.last_at = now
        self.turn_ends = door.stopwatch() + door.turn_s
        door.counters.bytes_in += len(data)
        if len(data) > SLICE_BYTES or self.unread:
            self.unread.extend(slices(data))
            self._go_on(now)
            return
        commands = parser.feed(data)
        if commands:
            self.held_since = now
        if self.backlog or len(commands) > self._room():
            self.backlog.extend(commands)
            self._go_on(now)
            return
        self.deadline = now + door.backend.default_timeout_ms * 0.001
        self._run(commands)
        if parser.error is not None and not (self.backlog or self.closing):
            self._protocol_error()  # after QUIT it is nobody's

    def advance(self, now: float) -> None:
        """Dispatch what had to wait, as far as there is room, for one more turn."""
        self.turn_ends = self.door.stopwatch() + self.door.turn_s
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        backlog, unread, parser = self.backlog, self.unread, self.parser
        worked = bool(backlog)
        while not self.output_paused:
            if backlog:
                room = min(self._room() - len(self.out), len(backlog))
                if room <= 0:
                    break
                self.deadline = now + self.door.backend.default_timeout_ms * 0.001
                self._run([backlog.popleft() for _ in range(room)])
                self.mark_dirty()  # or a backlog of commands that need no replica would rest here
            if backlog or not unread:
                break
            if worked and self._turn_is_over():
                self.mark_dirty()
                break
            worked = True
            backlog += parser.feed(unread.popleft())
            if backlog:
                self.held_since = now
        if not backlog and parser.error is not None and not self.closing:
            self._protocol_error()

    def _turn_is_over(self) -> bool:
        return self.door.stopwatch() >= self.turn_ends

    @property
    def blocked(self) -> bool:
        """Whether reading has to stop: too much is under way, or unsent."""
        return self.output_paused or bool(self.backlog or self.unread)

    @property
    def finished(self) -> bool:
        """Whether a closing connection has nothing left to say."""
        return self.closing and not (self.pending or self.out or self.backlog or self.unread)

    def _room(self) -> int:
        if self.awaited is not None:
            return 0
        return self.in_flight_limit - len(self.pending) - self.gathering

    def _run(self, commands: list[list[bytes]]) -> None:
        if not self.bound:
            self.select(0)
        try:
            self._dispatch(iter(commands))
        except ConversationOverError:
            self.backlog.clear()
            self.unread.clear()
            self.closing = True
            self.mark_dirty()
        if commands and len(commands[-1][0]) <= _LONGEST_NAME:
            self.last_command = commands[-1][0]

    def _dispatch(self, rest: Iterator[list[bytes]]) -> None:
        keys: list[bytes] = []  # of GETs that stand side by side
        for args in rest:
            if args[0] in self.gets and len(args) == 2:
                keys.append(args[1])
                continue
            if keys:
                if late := self.read_together(keys):
                    self.put_back([*late, args, *rest])
                    return
                keys = []
            if self.reading and self._overtakes(args):
                self.put_back([args, *rest])
                return
            self._call(args)
            if self.awaited is not None or self._turn_is_over():
                self.put_back(list(rest))
                return
        if keys:
            self.put_back(self.read_together(keys))

    def put_back(self, commands: list[list[bytes]]) -> None:
        """They wait for what is under way, or for the next turn."""
        if commands:
            self.backlog.extendleft(reversed(commands))
            if self.awaited is None:
                self.mark_dirty()

    def _overtakes(self, args: list[bytes]) -> bool:
        """Whether the command writes a key of which a read before it is not answered."""
        writing, name = self.door.writing, args[0]
        command = writing.get(name) or writing.get(name[:_LONGEST_NAME].upper())
        written = set(command.keys_of(args)) if command is not None else set()
        if written.isdisjoint(self.reading):
            return False
        self.awaited = last_read(written, self.pending)
        self.reading -= written
        return self.awaited is not None

    def _call(self, args: list[bytes]) -> None:
        entry = self.dispatch.get(args[0]) or self._find(args)
        if entry is None:
            return
        handler, arity, family = entry
        self.door.counters.calls[family] += 1
        if len(args) == arity or (arity < 0 and len(args) >= -arity):
            handler(self, args)
        else:
            self.fail(replies.wrong_arity(args[0].decode("ascii").lower()))

    def read_together(self, keys: list[bytes]) -> list[list[bytes]]:
        """As one batch, unless there is something odd about them; the GETs for which there is no
        time are given back."""
        count = len(keys)
        self.reading.update(keys)
        if not self.muted and self.tokens is None:
            batch = ReadBatch(self, self.keyspace, keys, self.level, self.deadline)
            self.pending.append(batch)
            self.gathering += count
            if self.read_batch(batch):
                self.door.counters.calls[_READ] += count
                return []
            self.pending.pop()
            self.gathering -= count
        turn_ends = self.door.stopwatch() + self.door.turn_s
        for at, key in enumerate(keys):
            if at and self.door.stopwatch() >= turn_ends:
                return [[b"GET", late] for late in keys[at:]]
            self.door.counters.calls[_READ] += 1
            self.read_value(key)
        return []

    def read_value(self, key: bytes) -> None:
        """One GET by itself."""
        op = Read(self.keyspace, key, level=self.level, deadline=self.deadline, done=self.on_value)
        if self.muted:
            self.mute(op)
        self.pending.append(op)
        self.read(op)

    def _find(self, args: list[bytes]) -> Any:
        name = args[0]
        entry = self.dispatch.get(name.upper()) if len(name) <= _LONGEST_NAME else None
        if entry is None:
            self.door.counters.calls[Family.UNKNOWN] += 1
            self.fail(replies.unknown_command(args))
        return entry

    def _protocol_error(self) -> None:
        problem = self.parser.error
        self.door.counters.closed_protocol += 1
        self.closing = True
        self.muted = 0
        if problem:
            self.fail(resp.error(f"ERR {problem}"))
        self.mark_dirty()

    # Replies -----------------------------------------------------------------------------------

    def reply(self, reply: bytes) -> None:
        """Answer the command at hand, after those before it."""
        if self.muted:
            self._swallow()
            return
        if self.pending:
            self.pending.append(Ready(reply))
            return
        self.out.append(reply)
        self.mark_dirty()

    def reply_when_due(self, make: Callable[[], bytes]) -> None:
        """Answer the command at hand with what `make` says once all before it are answered."""
        if self.pending and not self.muted:
            self.pending.append(Due(make))
        else:
            self.reply(make())

    def fail(self, reply: bytes) -> None:
        """Answer the command at hand with an error."""
        self.door.counters.errors += 1
        self.reply(reply)

    def failure(self, error: DataError, note: str = "") -> bytes:
        """An operation's error as a reply."""
        self.door.counters.errors += 1
        return replies.data_error(error, note)

    def mute(self, op: Read | Write | Modify | Scan | Count) -> None:
        """Let `op` end without a reply. For callers that have seen `muted`."""
        self._swallow()
        op.done = self._on_muted

    def _swallow(self) -> None:
        if self.muted > 0:
            self.muted -= 1

    def batch_read(self, batch: ReadBatch) -> None:
        """Part of Asker."""
        nil, values = self.nil, batch.values
        if len(values) == 1:
            value = values[0]
            batch.tag = nil if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
        else:
            batch.tag = [
                nil if value is None else b"$%d\r\n%b\r\n" % (len(value), value) for value in values
            ]
        self.gathering -= len(values)
        if self.pending[0] is batch:
            self.release()

    def batch_dissolved(self, batch: ReadBatch, reads: list[Read]) -> None:
        """Part of Asker: they take its place."""
        for op in reads:
            op.done = self.on_value
        self.gathering -= len(reads)
        if self.awaited is batch:
            self.awaited = reads[-1]
        waiting = list(self.pending)
        at = waiting.index(batch)
        waiting[at : at + 1] = reads
        self.pending = deque(waiting)

    def _on_value(self, op: Read) -> None:
        if op.error is not None:
            op.tag = self.failure(op.error)
        elif op.record is None:
            op.tag = self.nil
        else:
            value = op.record.value
            op.tag = b"$%d\r\n%b\r\n" % (len(value), value)
        if self.pending and self.pending[0] is op:
            self.release()

    def _on_derived(self, op: Read | Scan | Count) -> None:
        encode: Callable[[Session, Any], bytes] = op.tag
        op.tag = self.failure(op.error) if op.error is not None else encode(self, op)
        if self.pending and self.pending[0] is op:
            self.release()

    def _on_write(self, op: Write) -> None:
        if op.error is not None:
            op.tag = self.failure(op.error)
        elif op.value is not None:
            op.tag = resp.OK
        else:
            op.tag = resp.ONE if op.existed else resp.ZERO
        if self.pending and self.pending[0] is op:
            self.release()

    def _on_modified(self, op: Modify) -> None:
        if op.error is not None:
            op.tag = self.failure(op.error)
        elif type(op.result) is bytes:
            op.tag = op.result
        else:  # another sidecar finished it after this one had judged it on two states
            self.door.counters.errors += 1
            op.tag = replies.REFUSED_UNSEEN
        if self.pending and self.pending[0] is op:
            self.release()

    def _on_muted(self, op: Read | Write | Modify | Scan | Count) -> None:
        op.tag = b""
        if self.pending and self.pending[0] is op:
            self.release()

    def begin_gather(self, encode: GatherEncoder) -> Gather:
        """A place in the order of replies for a command on many keys, for `start_gather`."""
        gather = Gather(self, None if self.muted else encode, self.door.limits.output_hard_bytes)
        if self.muted:
            self._swallow()
        return gather

    def start_gather(
        self,
        gather: Gather,
        count: int,
        make: Callable[[int], Any],
        start: Callable[[Any], None],
    ) -> None:
        """Hand all operations of `gather`, as `make` gives them by their number, to `start`, which
        may answer at once."""
        gather.count = count
        self.gathering += count
        self.pending.append(gather)
        gather.begin(make, start)
        if gather.half_begun:  # what follows would come before its other half
            self.awaited = gather

    def gathered(self, gather: Gather) -> None:
        """All operations of `gather` have ended, or will not be begun."""
        self.gathering -= gather.count
        if gather.encode is None:
            gather.tag = b""
        elif gather.too_large:
            self.door.counters.errors += 1
            gather.tag = replies.too_large(self.door.limits.output_hard_bytes)
        else:
            gather.tag = gather.encode(self, gather.ops)
        gather.ops = []
        if self.pending and self.pending[0] is gather:
            self.release()

    def replace_lone(self, op: Read) -> None:
        """Have `op` answer the lone GET, unless the client is gone."""
        if self.pending:
            self.pending[0] = op

    def release(self) -> None:
        """Send what is due, as far as the order of replies allows."""
        pending = self.pending
        out = self.out
        while pending:
            tag = pending[0].tag
            if type(tag) is bytes:
                out.append(tag)
            elif type(tag) is list:  # the replies of a batch
                out += tag
            else:
                break
            pending.popleft()
        if not pending:
            self.reading.clear()
        elif len(self.reading) > _MOST_READING:
            self.reading = keys_read(pending)
        if self.awaited is not None and self.awaited not in pending:
            self.awaited = None
        if not self.dirty:
            self.dirty = True
            self.door.wake(self)

    def mark_dirty(self) -> None:
        """There is something to send, or room for more."""
        if not self.dirty:
            self.dirty = True
            self.door.wake(self)

    # To the socket -----------------------------------------------------------------------------

    def take_output(self) -> bytes:
        """All replies that are due, once per wake."""
        self.dirty = False
        out = self.out
        if not out:
            return b""
        if len(out) == 1:
            data = out[0]
            out.clear()
            if len(data) > LARGE_REPLY_BYTES:
                self._bound_in_flight(len(data))
        else:
            data = b"".join(out)
            self._bound_in_flight(len(data) // len(out))
            out.clear()
        return data

    def _bound_in_flight(self, reply_bytes: int) -> None:
        """Let no more be under way than fits the output bound twice over, going by the sizes just
        seen: 256 replies of 16 MiB would be gigabytes for a reader who is merely slow."""
        limits = self.door.limits
        fitting = 2 * limits.output_soft_bytes // (reply_bytes + 1)
        self.in_flight_limit = max(_LEAST_IN_FLIGHT, min(limits.in_flight, fitting))

    def forget(self) -> None:
        """The connection is gone: what is under way ends unheard."""
        self.closing = True
        cancel_all(self.pending, self.door.backend.cancel)
        self.unread.clear()
        self.backlog.clear()
        self.pending.clear()
        self.out.clear()
