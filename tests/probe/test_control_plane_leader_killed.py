"""Two instances of the control plane on one store: the leader is killed."""

import pytest

from tests.support.fault_table import Judged
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, second_control_plane, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.probe]

TAKEN_OVER_WITHIN_S = 8.0


@pytest.mark.fault(5)
def test_the_other_instance_takes_over_and_the_sidecar_stays_served(
    cluster: LocalCluster, judged: Judged
) -> None:
    other = second_control_plane(cluster)
    both = f"{cluster.control_plane_address},{other.address}"
    cluster.sidecar.stop()
    cluster.sidecar.start("--control-planes", both)
    cluster.wait_served()
    with load_on(cluster) as load:
        assert cluster.status(other.address).leader == "control-plane-1"
        cluster.control_plane.kill()
        wait_until(
            lambda: cluster.status(other.address).leader == "control-plane-2",
            "the other one leads",
            TAKEN_OVER_WITHIN_S,
        )
        wait_until(
            lambda: [s.state for s in cluster.status(other.address).sidecars] == ["SYNCED"],
            "the sidecar is served by the other one",
        )
        created = cluster.dabba("keyspace", "create", "new", "--control-plane", other.address)
        assert created.status == 0, created.err
        cluster.wait_served("new", timeout_s=5.0)
        wait_until(
            lambda: {n.health for n in cluster.status(other.address).nodes} == {"up"},
            "it watches the nodes",
        )
        history = load.stop()
        load.read_all()
    assert history.failures == []
    judged(history)
