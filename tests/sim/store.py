"""The coordination store in the simulation, and the stream of maps from it to the sidecars.

One bucket. Every change is one transaction, guarded by the leader's term and by the revision that
the leader has read; a deposed leader's transaction fails.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from buckets.bucket_map import Bucket, BucketMap, Keyspace, KeyspaceSettings, Mode, Owner, Stage
from buckets.codec import encode_entry, map_resources
from buckets.topology import Node, NodeState
from protos.dabbawala.v1 import discovery_pb2
from tests.sim.history import History
from tests.sim.server import KEYSPACE
from tests.sim.trace import Trace


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the change of owners under way has come."""

    admitting: int = 0  # the node that is being taken back; 0: none
    target: tuple[int, ...] = ()  # the owners that are wanted; empty: as they are
    begun: frozenset[int] = frozenset()  # new owners that may have got their first fence
    complete: frozenset[int] = frozenset()  # new owners that hold everything


class Store:
    """What is agreed. `publish` is called after every change."""

    def __init__(self, first: BucketMap, history: History, trace: Trace) -> None:
        self.map = first
        self.maps = [first]  # all that were published
        self.cursor = Cursor()
        self.leader = ""
        self.repaired_ms = 0  # every owner had everything up to then
        self.changes: Counter[str] = Counter()  # what was committed, by kind
        self.publish: Callable[[], None] = lambda: None
        self._history = history
        self._trace = trace
        self._note_trusted()

    @property
    def revision(self) -> int:
        """Grows with every transaction."""
        return self.map.revision

    @property
    def bucket(self) -> Bucket:
        """The bucket as it is agreed."""
        return self.map.keyspaces[KEYSPACE].buckets[0]

    @property
    def settings(self) -> KeyspaceSettings:
        """What the keyspace was created with."""
        return self.map.keyspaces[KEYSPACE].settings

    @property
    def linearizable(self) -> bool:
        """Whether the keys are registers."""
        return self.settings.mode is Mode.LINEARIZABLE

    def node(self, number: int) -> Node:
        """A node as it is agreed."""
        return self.map.nodes[number]

    def owner(self, number: int) -> Owner | None:
        """The node as owner or pending owner."""
        members = (*self.bucket.owners, *self.bucket.pending)
        return next((owner for owner in members if owner.node == number), None)

    def entry(self) -> bytes:
        """The bucket's map entry, as it lies beside the fences."""
        return encode_entry(KEYSPACE, self.bucket, self.map.nodes)

    def commit(
        self,
        leader: str,
        revision: int,
        *,
        bucket: Bucket | None = None,
        nodes: tuple[Node, ...] = (),
        cursor: Cursor | None = None,
    ) -> bool:
        """One transaction; False: somebody else leads, or has changed something since."""
        if leader != self.leader or revision != self.revision:
            self._trace(leader, "may not commit any more")
            return False
        keyspaces = self.map.keyspaces
        if bucket is not None:
            keyspaces = {KEYSPACE: Keyspace(self.settings, (bucket,))}
        table = {**self.map.nodes, **{node.number: node for node in nodes}}
        self.cursor = cursor or self.cursor
        self._trace(leader, "commits %s %s %s", bucket or "no bucket", nodes, self.cursor)
        self._count(bucket, nodes)
        self._adopt(replace(self.map, revision=revision + 1, keyspaces=keyspaces, nodes=table))
        return True

    def _count(self, bucket: Bucket | None, nodes: tuple[Node, ...]) -> None:
        """Of what is about to change."""
        before = self.bucket
        for node in nodes:
            if node.state is not self.node(node.number).state:
                taken = "suspected" if node.state is NodeState.SUSPECT else "taken back"
                self.changes[taken] += 1
            elif bucket is None:
                self.changes["new lives trusted"] += 1
        if bucket is not None:
            self.changes["epochs"] += 1
            if bucket.stage is not before.stage:
                self.changes[f"stage {bucket.stage.name}"] += 1

    def request_move(self, target: tuple[int, ...]) -> bool:
        """Somebody asks for other owners; False: one change of owners at a time."""
        if self.cursor.target or self.bucket.stage is not Stage.OLD:
            return False
        self.cursor = replace(self.cursor, target=target)
        self._trace("operator", "wants owners %s", target)
        self._adopt(replace(self.map, revision=self.revision + 1))
        return True

    def request_epoch(self) -> bool:
        """Somebody changes the bucket in a way that leaves its owners as they are."""
        if self.cursor != Cursor() or self.bucket.stage is not Stage.OLD:
            return False
        bucket = replace(self.bucket, epoch=self.bucket.epoch + 1)
        keyspaces = {KEYSPACE: Keyspace(self.settings, (bucket,))}
        self._trace("operator", "raises the epoch to %d", bucket.epoch)
        self._adopt(replace(self.map, revision=self.revision + 1, keyspaces=keyspaces))
        return True

    def _adopt(self, new: BucketMap) -> None:
        self.map = new
        self.maps.append(new)
        self._note_trusted()
        self.publish()

    def _note_trusted(self) -> None:
        step = self._history.next_step()
        for node in self.map.nodes.values():
            self._history.trusted.setdefault(node.run_id, step)


def responses(bucket_map: BucketMap) -> list[bytes]:
    """The whole map as one batch of a delta stream."""
    by_type: dict[str, discovery_pb2.DeltaDiscoveryResponse] = {}
    for resource in map_resources(bucket_map):
        response = by_type.setdefault(
            resource.type_url,
            discovery_pb2.DeltaDiscoveryResponse(type_url=resource.type_url, nonce="n"),
        )
        each = response.resources.add(name=resource.name, version=f"v{bucket_map.revision}")
        each.resource.type_url = resource.type_url
        each.resource.value = resource.value
    last = list(by_type.values())[-1]
    last.system_version_info = str(bucket_map.revision)
    return [response.SerializeToString() for response in by_type.values()]
