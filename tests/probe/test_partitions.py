"""Networks that part sidecars from nodes, both ways or one way, and heal: linearizable stays so."""

import time
from collections.abc import Iterator

import pytest

from tests.support.chaos_proxy import ChaosProxy, behind_proxies
from tests.support.fault_table import Judged
from tests.support.local_cluster import LocalCluster, local_cluster, second_sidecar, wait_until
from tests.support.register_load import TIMEOUT_S, RegisterLoad, judge, register_load

pytestmark = [pytest.mark.slow, pytest.mark.probe, pytest.mark.fault(7)]

LEDGER = "ledger"
TYPED = {"UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED"}  # ABORTED: a change whose end is unknown


@pytest.fixture
def two_sidecars() -> Iterator[tuple[LocalCluster, dict[str, ChaosProxy], dict[str, str]]]:
    """Three durable nodes behind proxies, a linearizable keyspace, the door of each sidecar."""
    with local_cluster("--data", "data", "--nodes", "3") as cluster:
        created = cluster.dabba(
            "keyspace", "create", LEDGER, "--mode", "linearizable", "--buckets", "8"
        )
        assert created.status == 0, created.err
        other = second_sidecar(cluster, "b")
        with behind_proxies(cluster) as proxies:
            for proxy in proxies.values():
                for sidecar in (cluster.sidecar, other):
                    proxy.road_of(sidecar.pid)
                proxy.reset()
            cluster.wait_trusted()
            cluster.wait_served(LEDGER)
            doors = {"parted": cluster.grpc_targets[0], "other": other.address}
            yield cluster, proxies, doors


def clients(doors: dict[str, str]) -> list[tuple[str, str]]:
    return [(f"{name}-{number}", door) for name, door in doors.items() for number in range(2)]


BOTH, THERE, BACK = (True, True), (True, False), (False, True)


def test_a_sidecar_parted_from_the_majority_answers_typed_and_in_time_and_nothing_is_lost(
    two_sidecars: tuple[LocalCluster, dict[str, ChaosProxy], dict[str, str]], judged: Judged
) -> None:
    cluster, proxies, doors = two_sidecars
    roads = [proxies[name].road_of(cluster.sidecar.pid) for name in ("node-1", "node-2")]
    with register_load(LEDGER, clients(doors)) as load:
        for there, back in (BOTH, THERE, BACK):
            failed = len(load.failures("parted"))
            for road in roads:
                road.cut(there=there, back=back)
            wait_until(
                lambda before=failed: len(load.failures("parted")) >= before + 2,  # type: ignore[misc]
                "the minority is told so",
            )
            load.run_for(100, "other")  # the majority goes on
            mended_at = time.monotonic()
            for road in roads:
                road.mend()
            cluster.wait_trusted()
            wait_until(
                lambda since=mended_at: served_since(load, since),  # type: ignore[misc]
                "the minority is served again",
            )
        load.run_for(100)
        load.stop()
    judge(load, judged)
    assert load.failures("other") == []
    parted = load.failures("parted")
    assert {done.code for done in parted} <= TYPED
    assert {done.code for done in parted} & {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert max(done.ended - done.began for done in parted) < TIMEOUT_S + 2.0


def served_since(load: RegisterLoad, since: float) -> bool:
    return any(
        done.began > since and not done.code and done.client.startswith("parted")
        for done in list(load.done)
    )
