"""What one sidecar acknowledged, the other one reads, whatever dies."""

import pytest

from tests.support.fault_table import Judged
from tests.support.load import GrpcClient, load_on
from tests.support.local_cluster import LocalCluster, second_sidecar, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.probe]


@pytest.mark.fault(11)
def test_two_sidecars_in_two_zones_read_each_others_writes_while_a_node_and_a_sidecar_die(
    kept_cluster: LocalCluster,
    judged: Judged,
) -> None:
    cluster = kept_cluster
    other = second_sidecar(cluster, "b")
    wait_until(
        lambda: [s.state for s in cluster.status().sidecars] == ["SYNCED"] * 2, "both have the map"
    )
    writers = [GrpcClient(f"other-{number}", other.address) for number in range(2)]
    for writer in writers:
        wait_until(lambda writer=writer: not writer.read(b"k")[3], "it serves")  # type: ignore[misc]
    with load_on(cluster, more=writers) as load:
        cluster.nodes[1].kill()
        load.run_for(1_000)
        cluster.nodes[1].start()
        cluster.wait_trusted()
        load.run_for(1_000)
        assert load.history.failures == []
        cluster.sidecar.kill()  # with writes under way: perhaps on one owner only
        cluster.sidecar.start()
        cluster.wait_served()
        load.run_for(1_000)
        history = load.stop()
        load.read_all()
    judged(history)
    assert not any(event.door.startswith("other") for event in history.failures)
