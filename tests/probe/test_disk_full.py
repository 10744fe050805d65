"""The disk of a node, then that of a sidecar, is full under load, and has room again."""

import os
import time
from pathlib import Path

import pytest

from tests.support.fault_table import Judged
from tests.support.full_disk import FullDisk, full_disk
from tests.support.history import NOT_APPLIED, OK, History
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, local_cluster, wait_until
from tests.support.processes import ends_within

pytestmark = [pytest.mark.slow, pytest.mark.probe, pytest.mark.peers]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return full_disk(tmp_path, monkeypatch)


@pytest.mark.fault(20)
def test_a_node_whose_disk_is_full_costs_no_operation_and_comes_back_with_room(
    disk: FullDisk, judged: Judged
) -> None:
    with local_cluster("--data", "data") as cluster, load_on(cluster) as load:
        node = cluster.nodes[0]
        watched = os.pidfd_open(node.pid)
        disk.fill(f"{node.folder}/")
        assert ends_within(watched, 20_000)  # what a server does that must fsync and can not
        wait_until(lambda: cluster.node_health()["node-1"] == "down", "it is shown")
        load.run_for(1_000)
        disk.free()
        node.start()
        cluster.wait_trusted()
        load.run_for(500)
        history = load.stop()
        load.read_all()
    assert [str(event) for event in history.failures] == []
    judged(history)


@pytest.mark.fault(17)
def test_hints_that_a_full_disk_does_not_take_mark_their_buckets_and_repair_brings_the_rest(
    disk: FullDisk, judged: Judged
) -> None:
    with local_cluster("--data", "data", "--nodes", "3") as cluster, load_on(cluster) as load:
        cluster.nodes[0].stop()
        wait_until(lambda: cluster.sidecar_health()["node-1"] == "unreachable", "it is missed")
        disk.fill(f"{cluster.folder}/sidecar/hints-")
        load.run_for(1_000)
        wait_until(lambda: marks(cluster), "what is not kept is marked")
        assert load.history.failures == []
        disk.fill(f"{cluster.folder}/sidecar/")  # that of the clock's ceiling, too
        wait_until(lambda: load.history.failures, "no version is given that is not safe")
        load.run_for(500)
        disk.free()
        freed = time.monotonic()
        wait_until(lambda: written_since(load.history, freed), "there is room again")
        cluster.nodes[0].start()
        cluster.wait_trusted()
        history = load.stop()
        assert {event.outcome for event in history.failures} == {NOT_APPLIED}
        assert all("can not keep its clock" in event.error for event in history.failures)
        repaired = cluster.dabba("repair", "default", "-o", "json")
        assert repaired.status == 0, repaired.err
        assert repaired.json["state"] == "done"
        load.read_all()
    judged(history)


def written_since(history: History, since: float) -> bool:
    return any(write.began > since and write.outcome == OK for write in history.writes)


def marks(cluster: LocalCluster) -> int:
    return len(cluster.sidecar_page("hints")["needs_repair"])
