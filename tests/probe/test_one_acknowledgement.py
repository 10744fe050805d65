"""Writes that reached one owner only when their sidecar was killed."""

import pytest

from tests.support.chaos_proxy import behind_proxies
from tests.support.fault_table import Judged
from tests.support.history import NOT_APPLIED, UNKNOWN
from tests.support.load import GrpcClient, load_on
from tests.support.local_cluster import LocalCluster, local_cluster, second_sidecar, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.probe, pytest.mark.fault(11)]

TIMES = 2


def writes(cluster: LocalCluster) -> int:
    """How many the sidecar has begun."""
    return int(cluster.sidecar_page("stats")["counters"]["writes"])


def test_what_one_owner_took_before_the_sidecar_died_is_unknown_and_read_one_way_ever_after(
    judged: Judged,
) -> None:
    with local_cluster("--data", "data", "--nodes", "3") as cluster:
        other = second_sidecar(cluster, "b")
        with behind_proxies(cluster) as proxies:
            # The other sidecar only: nobody but it can finish what the killed one began.
            others = GrpcClient("other", other.address)
            wait_until(lambda: not others.read(b"k")[3], "it serves")
            with load_on(cluster, more=[others]) as load:
                for number in range(TIMES):
                    roads = [
                        proxies[node.name].road_of(cluster.sidecar.pid)
                        for place, node in enumerate(cluster.nodes)
                        if place != number
                    ]
                    for node in cluster.nodes:
                        proxies[node.name].reset()
                    cluster.wait_trusted()
                    load.run_for(100)
                    for road in roads:
                        road.cut(back=False)  # requests do not arrive at these two
                    unfinished = cluster.sidecar_page("stats")["counters"]["writes"] + 2
                    wait_until(
                        lambda enough=unfinished: (
                            cluster.sidecar_page("stats")["counters"]["writes"]  # type: ignore[misc]
                            >= enough
                        ),
                        "writes are on one owner",
                    )
                    cluster.sidecar.kill()
                    for proxy in proxies.values():
                        proxy.reset()  # what was cut off is lost with its connection
                    cluster.sidecar.start()
                    cluster.wait_served()
                    load.run_for(200)
                history = load.stop()
                load.read_all()
    outcomes = {event.outcome for event in history.failures}
    assert UNKNOWN in outcomes
    assert outcomes <= {UNKNOWN, NOT_APPLIED}
    judged(history)
