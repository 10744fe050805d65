"""SIGKILL and SIGSTOP of one Valkey while clients read and write at QUORUM."""

import pytest

from tests.support.fault_table import Judged
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.probe]

SHOWN_WITHIN_S = 10.0  # a busy machine; the functional tests of the control plane measure it


def test_a_killed_node_costs_no_operation_and_is_shown(
    cluster: LocalCluster,
    judged: Judged,
) -> None:
    with load_on(cluster) as load:
        cluster.nodes[0].kill()
        wait_until(lambda: cluster.node_health()["node-1"] == "down", "shown", SHOWN_WITHIN_S)
        status = cluster.dabba("status", "-o", "json").json
        load.run_for(2_000)
        history = load.stop()
        load.read_all()
    shown = {node["node"]["id"]: node["health"] for node in status["nodes"]}
    assert [name for name, health in shown.items() if health != "up"] == ["node-1"]
    assert any("node-1" in problem for problem in status["problems"])
    assert history.failures == []
    judged(history)


@pytest.mark.fault(21)
def test_a_frozen_node_costs_no_operation(cluster: LocalCluster, judged: Judged) -> None:
    with load_on(cluster) as load:
        cluster.nodes[1].pause()
        load.run_for(1_000)
        wait_until(lambda: cluster.node_health()["node-2"] == "down", "shown", SHOWN_WITHIN_S)
        load.run_for(1_000)
        cluster.nodes[1].resume()
        cluster.wait_trusted()
        load.run_for(500)
        history = load.stop()
        load.read_all()
    assert history.failures == []
    judged(history)
