"""A cluster for clients to do a day's work at, and a restart of its sidecar in the middle of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.local_cluster import LocalCluster, local_cluster

LEDGER = "ledger"
LEDGER_DATABASE = 7


@contextmanager
def working_cluster() -> Iterator[LocalCluster]:
    """`default`, and `ledger` (SELECT 7), which is linearizable."""
    with local_cluster() as cluster:
        created = cluster.dabba(
            *("keyspace", "create", LEDGER, "--mode", "linearizable"),
            *("--durability", "memory", "--redis-db", str(LEDGER_DATABASE), "--buckets", "8"),
        )
        assert created.status == 0, created
        cluster.wait_served(LEDGER)
        yield cluster


def restart_sidecar(cluster: LocalCluster) -> None:
    """Kill it and start it again at the same addresses; returns when it serves."""
    cluster.sidecar.kill()
    cluster.sidecar.start()
    cluster.wait_served()
    cluster.wait_served(LEDGER)
