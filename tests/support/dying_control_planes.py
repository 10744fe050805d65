"""Control planes whose store dies under them while they take back n0, which lost everything."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from buckets.bucket_map import Owner
from control_plane.controllers.cluster_state import StoredNode
from control_plane.controllers.instance import ControlPlaneInstance
from control_plane.controllers.roster import InstanceRecord
from control_plane.coordination.errors import Unavailable
from control_plane.coordination.opening import open_store
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import (
    CoordinationStore,
    Entry,
    Leadership,
    Op,
    Registration,
    StoreOptions,
    Watch,
)
from replicas.client import ReplicaClient
from replicas.fence import Role
from replicas.layout import bucket_keys
from tests.support.control_planes import CLUSTER, until
from tests.support.servers import Server

# Far more than it takes: a run may spend its one transaction on a note that the admission waits.
MOST_RUNS = 300


class DyingStore(CoordinationStore):
    """A store that answers no more after some transactions."""

    def __init__(self, store: CoordinationStore, transactions: int) -> None:
        self._store = store
        self._left = transactions

    @property
    def dead(self) -> bool:
        return self._left < 0

    async def transact(self, ops: Sequence[Op]) -> list[int]:
        self._left -= 1
        if self.dead:
            raise Unavailable("the store died")
        return await self._store.transact(ops)

    async def read_many(self, paths: Iterable[str]) -> list[Entry | None]:
        return await self._store.read_many(paths)

    async def children(self, path: str) -> list[str]:
        return await self._store.children(path)

    async def read_tree(self, prefix: str) -> dict[str, Entry]:
        return await self._store.read_tree(prefix)

    async def delete_tree(self, prefix: str) -> None:
        await self._store.delete_tree(prefix)

    async def ephemeral(self, path: str, value: bytes) -> Registration:
        return await self._store.ephemeral(path, value)

    def watch(self, path: str) -> Watch:
        return self._store.watch(path)

    async def campaign(self, path: str, value: bytes) -> Leadership:
        return await self._store.campaign(path, value)

    async def sync(self, path: str) -> None:
        await self._store.sync(path)

    @property
    def connected(self) -> bool:
        return self._store.connected

    async def close(self) -> None:
        await self._store.close()


async def _whole(app: ControlPlaneInstance, server: Server, keyspace: str) -> None:
    """Whatever was interrupted: each bucket has a majority of its owners in their first life, a
    fence owns only what the map gives it, and the node counts only once it has everything back.
    """
    number = app.feed.state.nodes["n0"].node.number
    known = app.feed.state.keyspaces[keyspace].keyspace.buckets
    trusted = app.feed.state.nodes["n0"].record.trusted
    async with await ReplicaClient.connect(server.host, server.port) as client:
        stands = await client.read_fences([bucket_keys(keyspace, bucket.id) for bucket in known])
    for bucket, stored in zip(known, stands, strict=True):
        fence, back = stored.fence, Owner(number, 2) in bucket.owners
        assert back or not trusted
        assert fence is None or fence.role is Role.JOINING or back
        first_lives = sum(owner.incarnation == 1 for owner in bucket.owners)
        assert first_lives == 3 or (first_lives == 2 and len(bucket.owners) in (2, 3))
        assert len(bucket.owners) + len(bucket.pending) == 3


async def runs_until_back(folder: Path, server: Server, keyspace: str) -> int:
    """How many control planes it took, each of which died after one transaction."""
    runs = 1
    while await _interrupted_run(folder, server, keyspace, transactions=1) != 2:
        runs += 1
        assert runs < MOST_RUNS
    return runs


async def _interrupted_run(folder: Path, server: Server, keyspace: str, transactions: int) -> int:
    """The node's incarnation after a control plane that died."""
    options = StoreOptions(cluster=CLUSTER)
    store = DyingStore(await open_store(f"sqlite://{folder}/store.db", options), transactions)
    instance = ControlPlaneInstance(
        store,
        ClusterPaths(CLUSTER),
        InstanceRecord("cp-1", "127.0.0.1:1"),
        store_kind="embedded",
        probe_interval_ms=50,
        admission_settle_ms=0,
        compaction_interval_ms=-1,
        publish=lambda _: None,
    )
    instance.start()

    def nodes() -> Mapping[str, StoredNode]:
        return instance.feed.state.nodes

    def over() -> bool:
        return store.dead or ("n0" in nodes() and nodes()["n0"].node.incarnation == 2)

    try:
        await until(over, "it died, or the node is back")
        if not nodes()["n0"].record.trusted or nodes()["n0"].node.incarnation == 2:
            # It has been seen that the node is not what it was.
            await _whole(instance, server, keyspace)
        return nodes()["n0"].node.incarnation
    finally:
        await instance.stop()
        await store.close()
