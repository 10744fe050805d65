"""States of a cluster for tests of pure decisions: made through the bytes of the store."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from buckets.bucket_map import KeyspaceSettings
from buckets.codec import RangeValue, encode_range
from buckets.topology import Node
from control_plane.controllers.cluster_state import (
    ClusterState,
    counter_path,
    identity_path,
    read_state,
)
from control_plane.controllers.creation import first_keyspace, first_writes, publication
from control_plane.controllers.records import NodeRecord, encode_node_record
from control_plane.controllers.sight import Sight, cluster_mark
from control_plane.coordination.epoch import Snapshot
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import Entry, Op, Put
from replicas.identity import Identity

PATHS = ClusterPaths("test")
UID = "5eed"
MARK = cluster_mark("test", UID)


def run_id(number: int) -> bytes:
    return bytes([number]) * 20


def node(number: int, **changes: object) -> Node:
    """Node n<number> in one of the zones a, b, c."""
    plain = Node(
        number=number,
        id=f"n{number}",
        host="10.0.0.1",
        port=7000 + number,
        zone="abc"[number % 3],
        run_id=run_id(number),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def record(number: int, *, durable: bool = True, **changes: object) -> NodeRecord:
    return NodeRecord(node(number, **changes), durable=durable)


def sight(number: int, **changes: object) -> Sight:
    """A healthy, durable look at n<number> in the life that is trusted."""
    plain = Sight(
        address=node(number).address,
        at_ms=1,
        run_id=run_id(number),
        server="valkey 9.0.0",
        configured_durable=True,
        settled=True,
        identity=Identity(MARK, f"n{number}", 1),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


class StoreContent:
    """What a store holds, as a test changes it."""

    def __init__(self, *numbers: int) -> None:
        self.entries: dict[str, Entry] = {}
        self.epoch = 0
        self.put(identity_path(PATHS), b'{"uid":"%b"}' % UID.encode())
        if numbers:
            self.put(counter_path(PATHS), b"%d" % max(numbers))
        for number in numbers:
            self.put_node(record(number))

    def put(self, path: str, value: bytes) -> None:
        """A write in a transaction of its own, with its bump of the epoch."""
        known = self.entries.get(path)
        self.entries[path] = Entry(value, 0 if known is None else known.version + 1)
        self.epoch += 1

    def put_node(self, known: NodeRecord) -> None:
        self.put(PATHS.node(known.node.id), encode_node_record(known))

    def put_range(self, value: RangeValue) -> None:
        self.put(PATHS.bucket_range(value.keyspace, value.index), encode_range(value))

    def plan_keyspace(self, settings: KeyspaceSettings) -> None:
        """The first step of a creation."""
        state = self.state()
        nodes = [stored.node for stored in state.nodes.values()]
        self.apply(first_writes(PATHS, first_keyspace(settings, nodes)))

    def create_keyspace(self, settings: KeyspaceSettings) -> None:
        """All of it."""
        self.plan_keyspace(settings)
        self.apply(publication(PATHS, self.state().keyspaces[settings.name]))

    def apply(self, ops: Sequence[Op]) -> None:
        for op in ops:
            assert isinstance(op, Put)
            self.put(op.path, op.value)

    def state(self, previous: ClusterState | None = None) -> ClusterState:
        """Read it as an instance does."""
        epoch = Entry(b"%d" % self.epoch, self.epoch)
        return read_state(PATHS, Snapshot(self.epoch, epoch, dict(self.entries)), previous)


def healthy(state: ClusterState) -> Mapping[str, Sight]:
    return {node_id: sight(stored.node.number) for node_id, stored in state.nodes.items()}
