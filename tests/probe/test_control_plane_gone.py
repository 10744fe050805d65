"""Reads and writes go on without the control plane and without the coordination store."""

import grpc
import pytest

from tests.support.fault_table import Judged
from tests.support.load import Load, load_on
from tests.support.local_cluster import LocalCluster, local_cluster, wait_until
from tests.support.servers import Servers

pytestmark = [pytest.mark.slow, pytest.mark.probe]

PATIENT_MS = 4_000  # a busy machine is no failure of what is tested


def restart_sidecar_from_its_disk(cluster: LocalCluster, load: Load) -> int:
    """How many operations failed: only such that were asked while nobody listened."""
    assert load.history.failures == []
    cluster.sidecar.kill()
    cluster.sidecar.start("--default-timeout-ms", str(PATIENT_MS))
    cluster.wait_served()
    wait_until(lambda: nothing_fails(load, 300), "all clients have connected again")
    settled = len(load.history.failures)
    assert nothing_fails(load, 1_000)
    return settled


def nothing_fails(load: Load, operations: int) -> bool:
    before = len(load.history.failures)
    load.run_for(operations)
    return len(load.history.failures) == before


def store_is(cluster: LocalCluster, *, reachable: bool) -> bool:
    """Whether the control plane says so; one that is too busy to answer does not."""
    try:
        return cluster.status().store_reachable is reachable
    except grpc.RpcError:
        return False


def synced(cluster: LocalCluster) -> bool:
    status = cluster.status()
    return [
        (sidecar.state, sidecar.map_revision) for sidecar in status.sidecars
    ] == [("SYNCED", status.map_revision)]  # fmt: skip


def check_changes_arrive(cluster: LocalCluster, name: str) -> None:
    created = cluster.dabba("keyspace", "create", name)
    assert created.status == 0, created.err
    cluster.wait_served(name, timeout_s=5.0)


@pytest.mark.fault(5)
def test_a_killed_control_plane_is_not_missed_not_even_by_a_sidecar_that_restarts(
    cluster: LocalCluster,
    judged: Judged,
) -> None:
    with load_on(cluster) as load:
        cluster.control_plane.kill()
        load.run_for(1_000)
        failed = restart_sidecar_from_its_disk(cluster, load)
        cluster.control_plane.start()
        wait_until(lambda: cluster_answers(cluster), "the control plane is back")
        wait_until(lambda: synced(cluster), "the sidecar has its map from it")
        check_changes_arrive(cluster, "afterwards")
        history = load.stop()
        load.read_all()
    assert [event.error for event in history.failures[failed:]] == []
    judged(history)


def cluster_answers(cluster: LocalCluster) -> bool:
    answer = cluster.dabba("status", "-o", "json")
    return answer.status == 0 and bool(answer.json["leader"])


@pytest.mark.fault(5)
@pytest.mark.peers
def test_a_killed_zookeeper_is_not_missed_not_even_by_a_sidecar_that_restarts(
    servers: Servers,
    judged: Judged,
) -> None:
    zookeeper = servers.zookeeper()
    with local_cluster("--zookeeper", zookeeper.address) as cluster, load_on(cluster) as load:
        zookeeper.kill()
        wait_until(lambda: store_is(cluster, reachable=False), "shown as gone")
        load.run_for(1_000)
        failed = restart_sidecar_from_its_disk(cluster, load)
        assert any("store" in problem for problem in cluster.status().problems)
        zookeeper.restart()
        wait_until(lambda: store_is(cluster, reachable=True), "shown as back")
        wait_until(lambda: cluster.status().leader, "an instance leads")
        wait_until(lambda: synced(cluster), "the sidecar has the map")
        check_changes_arrive(cluster, "afterwards")
        history = load.stop()
        load.read_all()
        assert [event.error for event in history.failures[failed:]] == []
        judged(history)


@pytest.mark.fault(5)
def test_nodes_that_restart_without_a_control_plane_wait_for_it_and_are_never_misread(
    kept_cluster: LocalCluster,
    judged: Judged,
) -> None:
    cluster = kept_cluster
    with load_on(cluster) as load:
        cluster.control_plane.kill()
        restart(cluster, "node-1")
        wait_until(lambda: cluster.sidecar_health()["node-1"] == "suspect", "it is not counted")
        load.run_for(500)
        assert load.history.failures == []
        # Now buckets without a majority: typed errors, and no answer from a life not vouched for.
        restart(cluster, "node-2")
        wait_until(lambda: cluster.sidecar_health()["node-2"] == "suspect", "it is not counted")
        wait_until(lambda: load.history.failures, "some operations can not be done")
        load.run_for(500)
        assert set(cluster.sidecar_health().values()) == {"connected", "suspect"}
        cluster.control_plane.start()
        wait_until(lambda: cluster_answers(cluster), "the control plane is back")
        cluster.wait_trusted()
        failed = len(load.history.failures)
        load.run_for(500)
        history = load.stop()
        load.read_all()
    assert [event.error for event in history.failures[failed:]] == []
    judged(history)
    words = {event.error.split(" ")[1] for event in history.failures if "redis" in event.door}
    assert words <= {"UNAVAILABLE", "NOTAPPLIED", "UNKNOWN"}


def restart(cluster: LocalCluster, node_id: str) -> None:
    cluster.parts[node_id].stop()
    cluster.parts[node_id].start()
