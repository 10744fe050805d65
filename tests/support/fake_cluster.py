"""A cluster in virtual time: the product's coordinators over simulated replicas and links.

Nothing moves by itself. A test (or a simulator) says when a command reaches its replica, when a
reply comes back, which connection breaks and what it takes along, and when the clock goes on. So a
race is a list of such steps, and the same steps give the same end.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from buckets.bucket_map import (
    Bucket,
    BucketMap,
    Consistency,
    Keyspace,
    KeyspaceSettings,
    Owner,
    Stage,
)
from buckets.codec import MapEntry, decode_entry, encode_entry
from buckets.topology import Node, NodeState
from replicas.commands import create_fence, entry_command, raise_fence
from replicas.fake import FakeReplica, State
from replicas.fence import Fence, Role, decode_fence
from replicas.layout import FENCE_FIELD, MAP_FIELD, bucket_keys, user_field
from replicas.link import ReplySink
from replicas.record import Record, decode_record
from replicas.version import HybridClock
from sidecar.core.coordinator import Coordinator
from sidecar.core.operation import Read, Write
from sidecar.core.route import Route
from sidecar.errors import Outcome, Reason
from tests.support.lanes import Lane, general_lane

KEYSPACE = "default"
START_MS = 1_763_700_000_000
START_S = 1000.0
TIMEOUT_S = 1.0
KEYS = bucket_keys(KEYSPACE, 0)  # the cluster has one bucket


@dataclass(slots=True)
class _Sent:
    command: bytes
    sink: ReplySink
    slot: int


class FakeLink:
    """A connection to one life of a replica: commands and replies keep their order in it."""

    def __init__(self, cluster: "FakeCluster", number: int) -> None:
        self.number = number
        self.life = cluster.replicas[number].run_id
        self.full = False  # refuses everything, as a link at its bound does
        self.closed = False
        self.reason = ""
        self.commands: deque[_Sent] = deque()  # on their way
        self.replies: deque[tuple[_Sent, object]] = deque()  # on their way back
        self._cluster = cluster
        self._afloat: list[bytes] = []  # left before the connection broke, not arrived yet

    def send(self, command: bytes, sink: ReplySink, slot: int) -> bool:
        """Part of PeerLink."""
        if self.closed or self.full:
            return False
        self.commands.append(_Sent(command, sink, slot))
        return True

    def deliver(self, count: int = 1) -> None:
        """The replica executes the next `count` commands; their replies set out."""
        for _ in range(count):
            sent = self.commands.popleft()
            self.replies.append((sent, self._execute(sent.command)))

    def answer(self, count: int = 1) -> None:
        """The next `count` replies arrive."""
        for _ in range(count):
            sent, reply = self.replies.popleft()
            sent.sink.on_reply(sent.slot, reply, self)  # type: ignore[arg-type]

    def answer_with(self, reply: object) -> None:
        """The replica answers the next command with `reply` instead, having done nothing."""
        sent = self.commands.popleft()
        self.replies.append((sent, reply))
        self.answer(len(self.replies))

    def flow(self) -> bool:
        """Everything on its way arrives; whether there was anything."""
        moved = bool(self.commands or self.replies)
        self.deliver(len(self.commands))
        self.answer(len(self.replies))
        return moved

    def cut(self, *, unsent: int = 0) -> None:
        """The connection breaks: every sink that waits hears of it, in order.

        The last `unsent` commands never left. The others did; what had not arrived may still do so
        (`arrive_late`), or never.
        """
        if self.closed:
            return
        self.closed = True
        waiting = [sent for sent, _ in self.replies] + list(self.commands)
        left = list(self.commands)[: len(self.commands) - unsent]
        self._afloat = [sent.command for sent in left]
        self.replies.clear()
        self.commands.clear()
        self._cluster.link_closed(self)
        for at, sent in enumerate(waiting):
            written = at < len(waiting) - unsent
            sent.sink.on_lost(sent.slot, written, self)  # type: ignore[arg-type]

    def arrive_late(self) -> None:
        """What was afloat when the connection broke is executed after all, in the same life."""
        if self._cluster.replicas[self.number].run_id == self.life:
            for command in self._afloat:
                self._execute(command)
        self._afloat = []

    def _execute(self, command: bytes) -> object:
        return self._cluster.replicas[self.number].execute(command, self._cluster.wall_ms)


@dataclass(slots=True)
class Asked:
    """An operation and how often it has ended. `begun` numbers operations in order of asking."""

    op: Read | Write
    begun: int
    ends: int = 0
    ended_at: int = 0  # on the scale of `begun`
    on_end: Callable[["Asked"], None] | None = None

    def done(self, op: object) -> None:
        self.ends += 1
        if self.on_end is not None:
            self.on_end(self)

    @property
    def ended(self) -> bool:
        return self.ends > 0

    @property
    def outcome(self) -> Outcome | None:
        """None while it is under way."""
        if not self.ended:
            return None
        return Outcome.OK if self.op.error is None else self.op.error.outcome

    @property
    def reason(self) -> Reason | None:
        return self.op.error.reason if self.op.error is not None else None

    @property
    def write(self) -> Write:
        assert isinstance(self.op, Write)
        return self.op

    @property
    def value(self) -> bytes | None:
        """What a read that ended well found."""
        assert isinstance(self.op, Read)
        assert self.ended
        assert self.op.error is None, self.op.error
        return self.op.record.value if self.op.record is not None else None


class FakeSidecar:
    """One coordinator with a link to every node, and the map as far as it has heard."""

    lane: Lane = staticmethod(general_lane)  # the way of its reads
    timeout_s = TIMEOUT_S  # of its reads

    def __init__(self, cluster: "FakeCluster", zone: str, writer: bytes) -> None:
        self.clock_ahead_ms = 0  # of everybody else's
        self.cluster = cluster
        self.links: dict[int, FakeLink] = {}
        self.asked: list[Asked] = []
        self.entries_asked = 0  # how often a replica was asked for a map entry
        self.learns = True
        self.core = Coordinator(
            zone=zone,
            clock=HybridClock(writer),
            wall_ms=lambda: cluster.wall_ms + self.clock_ahead_ms,
            monotonic=lambda: cluster.now_s,
            learner=self,
        )

    # --- map and links

    def adopt(self, bucket_map: BucketMap) -> None:
        """The map arrives; links follow it."""
        for node in self.core.adopt(bucket_map)[0]:
            self.connect(node.number)
        for number in list(self.links):
            if number not in bucket_map.nodes:
                self.links[number].cut()

    def connect(self, number: int) -> FakeLink:
        """A new connection to the node, whatever life it is in."""
        old = self.links.get(number)
        if old is not None:
            old.cut()
        link = FakeLink(self.cluster, number)
        self.links[number] = link
        self.core.peers[number].connected(link, link.life)
        self.core.health_changed()
        return link

    def link_closed(self, link: FakeLink) -> None:
        if self.links.get(link.number) is link:
            del self.links[link.number]
        peer = self.core.peers.get(link.number)
        if peer is not None and peer.link is link:
            peer.disconnected("its connection broke")
            self.core.health_changed()

    # --- core.Learner

    def ask_map_entry(self, route: Route, slot: int) -> None:
        """Part of Learner."""
        self.entries_asked += 1
        link = route.peers[slot].link
        if link is None or not link.send(entry_command(KEYS), _EntrySink(self, route), slot):
            route.learning = False

    def learn(self, raw_entry: bytes) -> None:
        """Part of Learner."""
        current = self.core.map
        if not self.learns or current is None:
            return
        entry = decode_entry(raw_entry)
        if entry.bucket.epoch > current.keyspaces[KEYSPACE].buckets[0].epoch:
            self.adopt(_overlaid(current, entry))

    # --- operations

    def put(self, key: bytes, value: bytes, level: int = Consistency.QUORUM, **more: Any) -> Asked:
        return self._write(key, value, level, **more)

    def delete(self, key: bytes, level: int = Consistency.QUORUM, **more: Any) -> Asked:
        return self._write(key, None, level, **more)

    def _write(
        self,
        key: bytes,
        value: bytes | None,
        level: int,
        *,
        version: bytes = b"",
        expires_at_ms: int = 0,
        keyspace: str = KEYSPACE,
    ) -> Asked:
        op = Write(
            keyspace,
            key,
            value,
            level=level,
            deadline=self.cluster.now_s + TIMEOUT_S,
            done=_nothing,
            version=version,
            expires_at_ms=expires_at_ms,
        )
        asked = self._track(op)
        op.done = asked.done
        self.core.write(op)
        return asked

    def get(self, key: bytes, level: int = Consistency.QUORUM, keyspace: str = KEYSPACE) -> Asked:
        deadline = self.cluster.now_s + self.timeout_s
        op = Read(keyspace, key, level=level, deadline=deadline, done=_nothing)
        asked = self._track(op)
        op.done = asked.done
        self.lane(self.core, op)
        return asked

    def _track(self, op: Read | Write) -> Asked:
        asked = Asked(op, self.cluster.next_number(), on_end=self.cluster.note_end)
        self.asked.append(asked)
        return asked


class _EntrySink:
    """Brings one map entry to the sidecar, as the product's links do."""

    def __init__(self, sidecar: FakeSidecar, route: Route) -> None:
        self._sidecar = sidecar
        self._route = route

    def on_reply(self, slot: int, reply: object, link: object) -> None:
        self._route.learning = False
        if isinstance(reply, list) and isinstance(reply[1], bytes):
            self._sidecar.learn(reply[1])

    def on_lost(self, slot: int, sent: bool, link: object) -> None:
        self._route.learning = False


@dataclass
class FakeCluster:
    """Replicas of one bucket, numbered from 1; node n stands in zone a, b, c, ... in turn.

    `owners` are the numbers of the owning nodes; of the others nothing is known at first. A slot
    of the bucket is a place in `owners`.
    """

    nodes: int = 3
    owners: tuple[int, ...] = (1, 2, 3)
    zones: int = 3
    settings: KeyspaceSettings = field(
        default_factory=lambda: KeyspaceSettings(KEYSPACE, buckets=1, redis_db=0)
    )
    with_map: bool = True  # whether sidecars have it from the start

    def __post_init__(self) -> None:
        self.now_s = START_S
        self.wall_ms = START_MS
        self.sidecars: list[FakeSidecar] = []
        self.replicas = {n: FakeReplica(_life(n, 1)) for n in range(1, self.nodes + 1)}
        self.on_end: Callable[[Asked], None] | None = None
        self._lives = dict.fromkeys(self.replicas, 1)
        self._number = 0
        self.map = self._first_map()
        for number in self.owners:
            self.fence_created(number)
        self.sidecar = self.new_sidecar()

    def _first_map(self) -> BucketMap:
        nodes = {
            number: Node(
                number=number,
                id=f"n{number}",
                host="127.0.0.1",
                port=7000 + number,
                zone=chr(ord("a") + (number - 1) % self.zones),
                run_id=_life(number, 1),
            )
            for number in self.replicas
        }
        bucket = Bucket(0, 1, tuple(Owner(number, 1) for number in self.owners))
        keyspaces = {KEYSPACE: Keyspace(self.settings, (bucket,))}
        return BucketMap("test", 1, nodes, keyspaces)

    def new_sidecar(self, zone: str = "a") -> FakeSidecar:
        """One more sidecar, connected to every node of the map."""
        writer = b"sidecar%d" % len(self.sidecars)
        sidecar = FakeSidecar(self, zone, writer)
        self.sidecars.append(sidecar)
        if self.with_map:
            sidecar.adopt(self.map)
        return sidecar

    # --- short for the first sidecar

    def link(self, number: int) -> FakeLink:
        return self.sidecar.links[number]

    def put(self, key: bytes, value: bytes, level: int = Consistency.QUORUM, **more: Any) -> Asked:
        return self.sidecar.put(key, value, level, **more)

    def get(self, key: bytes, level: int = Consistency.QUORUM) -> Asked:
        return self.sidecar.get(key, level)

    # --- time

    def flow(self) -> None:
        """Everything on its way arrives, and what it causes, until all is quiet."""
        moved = True
        while moved:
            moved = False
            for sidecar in self.sidecars:
                for link in list(sidecar.links.values()):
                    moved |= link.flow()

    def wait(self, seconds: float) -> None:
        """Time passes, and the coordinators tick once."""
        self.now_s += seconds
        self.wall_ms += round(seconds * 1000)
        self.tick()

    def tick(self) -> None:
        for sidecar in self.sidecars:
            sidecar.core.tick()

    def time_out(self) -> None:
        """The deadline of everything that was asked passes."""
        self.tick()
        self.wait(TIMEOUT_S + 0.001)

    # --- numbers that order what happens

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def note_end(self, asked: Asked) -> None:
        asked.ended_at = self.next_number()
        if self.on_end is not None:
            self.on_end(asked)

    # --- replicas

    def link_closed(self, link: FakeLink) -> None:
        for sidecar in self.sidecars:
            sidecar.link_closed(link)

    def crash(self, number: int, state: State | None = None, *, empty: bool = False) -> None:
        """The server restarts: every connection breaks, and it has another run id.

        It keeps what it held, or comes back with `state` (older), or with nothing.
        """
        for sidecar in self.sidecars:
            if number in sidecar.links:
                sidecar.links[number].cut()
        self._lives[number] += 1
        life = _life(number, self._lives[number])
        if empty:
            self.replicas[number].restart_empty(life)
        else:
            self.replicas[number].restart(life, state)

    def life(self, number: int) -> bytes:
        """The run id that the replica has now."""
        return self.replicas[number].run_id

    def record(self, number: int, key: bytes) -> Record | None:
        """What the replica holds of `key`."""
        raw = self.fields(number).get(user_field(key))
        return decode_record(raw) if raw is not None else None

    def values(self, number: int) -> set[bytes]:
        """All values that the replica holds."""
        found = (self.record(number, field[1:]) for field in self.fields(number))
        return {record.value for record in found if record is not None}

    def fields(self, number: int) -> dict[bytes, bytes]:
        """The hash of the bucket on the replica, reserved fields included."""
        return self.replicas[number].state.hashes.get(KEYS.data, {})

    def holders(self, key: bytes, version: bytes) -> set[int]:
        """Replicas that hold `version` of `key`, or a later one."""
        found = {number: self.record(number, key) for number in self.replicas}
        return {number for number, record in found.items() if record and record.version >= version}

    # --- what the control plane does, each in one step

    @property
    def bucket(self) -> Bucket:
        return self.map.keyspaces[KEYSPACE].buckets[0]

    def change(self, **changes: object) -> Bucket:
        """The next map: the bucket with `changes`, at the next epoch. Not published yet."""
        bucket = replace(self.bucket, epoch=self.bucket.epoch + 1, **changes)  # type: ignore[arg-type]
        keyspace = Keyspace(self.settings, (bucket,))
        self.map = replace(self.map, revision=self.map.revision + 1, keyspaces={KEYSPACE: keyspace})
        return bucket

    def change_node(self, number: int, **changes: object) -> None:
        """The next map: the node with `changes`. Not published yet."""
        node = replace(self.map.nodes[number], **changes)  # type: ignore[arg-type]
        nodes = {**self.map.nodes, number: node}
        self.map = replace(self.map, revision=self.map.revision + 1, nodes=nodes)

    def publish(self) -> None:
        """Every sidecar hears of the present map."""
        for sidecar in self.sidecars:
            sidecar.adopt(self.map)

    def entry(self) -> bytes:
        """The bucket's map entry, as it lies beside the fences."""
        return encode_entry(KEYSPACE, self.bucket, self.map.nodes)

    def fence_created(self, number: int, role: Role = Role.OWNER) -> None:
        fence = Fence(self.bucket.epoch, self.bucket.stage, role, self.incarnation(number))
        reply = self._execute(number, create_fence(KEYS, fence.encode(), self.entry()))
        assert reply == 1, reply

    def fence_raised(self, *numbers: int, role: Role = Role.OWNER) -> None:
        """These replicas are raised to the present epoch."""
        for number in numbers:
            fence = Fence(self.bucket.epoch, self.bucket.stage, role, self.incarnation(number))
            reply = self._execute(number, raise_fence(KEYS, fence.encode(), self.entry()))
            assert reply == 1, reply

    def set_fence(self, number: int, raw: bytes | None) -> None:
        """Whatever befell the fence of this replica."""
        fields = self.fields(number)
        if raw is None:
            fields.pop(FENCE_FIELD)
        else:
            fields[FENCE_FIELD] = raw
            fields[MAP_FIELD] = self.entry()

    def fence(self, number: int) -> Fence:
        found = decode_fence(self.fields(number)[FENCE_FIELD])
        assert found is not None
        return found

    def copy(self, sources: Iterable[int], target: int) -> None:
        """The newest of what `sources` hold is written to `target`."""
        fields = self.fields(target)
        for source in sources:
            for name, raw in self.fields(source).items():
                theirs = decode_record(raw)
                mine = decode_record(fields.get(name, b""))
                if theirs is not None and (mine is None or theirs.order > mine.order):
                    fields[name] = raw

    def suspect(self, number: int) -> None:
        """The control plane has seen that a server restarted without its data."""
        self.change_node(number, state=NodeState.SUSPECT, reason="restarted without its data")

    def readmit(self, number: int) -> None:
        """A new life of an owner is taken back, as the protocol says, and published.

        An epoch without it is fenced on the others, its data is repaired from them, its fence is
        overwritten, and the next epoch names its new incarnation.
        """
        self.change()
        others = [owner.node for owner in self.bucket.owners if owner.node != number]
        self.fence_raised(*others)
        incarnation = self.incarnation(number) + 1
        owners = tuple(
            Owner(number, incarnation) if owner.node == number else owner
            for owner in self.bucket.owners
        )
        self.change(owners=owners)
        self.change_node(
            number, run_id=self.life(number), state=NodeState.ACTIVE, incarnation=incarnation
        )
        self.replicas[number].state = State()
        self.fence_created(number)
        self.copy(others, number)
        self.fence_raised(*others)

    def incarnation(self, number: int) -> int:
        """The incarnation in which the map names the node."""
        owners = (*self.bucket.owners, *self.bucket.pending)
        named = (owner.incarnation for owner in owners if owner.node == number)
        return next(named, self.map.nodes[number].incarnation)

    def _execute(self, number: int, command: bytes) -> object:
        return self.replicas[number].execute(command, self.wall_ms)


class Move:
    """The owners give way to others in the four stages, each step made by the test."""

    def __init__(self, cluster: FakeCluster, new: tuple[int, ...]) -> None:
        self._cluster = cluster
        self.old = tuple(owner.node for owner in cluster.bucket.owners)
        self.new = new

    def write_both_read_old(self, fenced: Iterable[int] | None = None) -> None:
        """New owners get a fence; `fenced` (all, unless given) of the old are raised."""
        pending = tuple(Owner(number, self._cluster.incarnation(number)) for number in self.new)
        self._cluster.change(stage=Stage.WRITE_BOTH_READ_OLD, pending=pending)
        for number in self.new:
            if number not in self.old:
                self._cluster.fence_created(number, Role.JOINING)
        self._cluster.fence_raised(*(fenced or self.old))

    def copy(self) -> None:
        """Every new owner holds the newest that the old owners hold."""
        for number in self.new:
            self._cluster.copy(self.old, number)

    def write_both_read_new(self) -> None:
        self._cluster.change(stage=Stage.WRITE_BOTH_READ_NEW)
        self._cluster.fence_raised(*dict.fromkeys(self.old + self.new))

    def write_new(self) -> None:
        self._cluster.change(stage=Stage.NEW)
        self._cluster.fence_raised(*dict.fromkeys(self.old + self.new))


def _overlaid(current: BucketMap, entry: MapEntry) -> BucketMap:
    keyspace = current.keyspaces[KEYSPACE]
    nodes = {**{node.number: node for node in entry.nodes}, **current.nodes}
    return replace(
        current,
        revision=current.revision + 1,
        nodes=nodes,
        keyspaces={KEYSPACE: Keyspace(keyspace.settings, (entry.bucket,))},
    )


def _life(number: int, life: int) -> bytes:
    return number.to_bytes(10, "big") + life.to_bytes(10, "big")


def _nothing(op: object) -> None:
    """Replaced before the operation starts."""
