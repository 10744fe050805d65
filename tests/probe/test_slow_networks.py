"""A node that is far away, or behind a road of 1 KB/s: others answer, and what it missed is kept
within bounds."""

import time

import pytest

from tests.support.chaos_proxy import behind_proxies
from tests.support.fault_table import Judged
from tests.support.history import Event, History
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.probe, pytest.mark.fault(22)]

FIRST_MOMENTS_S = 1.0  # until it is known to be slow
SLOW_S = 4.0
BOUND_S = 0.4  # of the 99th percentile: less than one answer of the slow node takes
HINT_BYTES = 64 << 20


def p99_s(events: list[Event]) -> float:
    latencies = sorted(event.ended - event.began for event in events)
    return latencies[len(latencies) * 99 // 100]


def hint_bytes(cluster: LocalCluster) -> int:
    return int(cluster.sidecar_page("stats")["hints"]["size_bytes"])


def waiting(cluster: LocalCluster) -> bool:
    """Whether hints are."""
    return bool(cluster.sidecar_page("hints")["nodes"])


@pytest.mark.parametrize(
    "how", [{"delay_s": 0.5}, {"bytes_per_s": 1_000}], ids=["500 ms", "1 KB a second"]
)
def test_a_slow_node_holds_up_nobody_and_its_hints_are_bounded(
    kept_cluster: LocalCluster, judged: Judged, how: dict[str, float]
) -> None:
    cluster = kept_cluster
    with behind_proxies(cluster) as proxies:
        cluster.wait_trusted()
        with load_on(cluster) as load:
            road = proxies["node-1"].road_of(cluster.sidecar.pid)
            proxies["node-1"].reset()
            road.slow(**how)
            began = time.monotonic()
            time.sleep(SLOW_S)  # how long it is slow is what is tested
            assert hint_bytes(cluster) < HINT_BYTES
            mended = time.monotonic()
            road.mend()
            proxies["node-1"].reset()
            cluster.wait_trusted()
            wait_until(
                lambda: not cluster.sidecar_page("hints")["nodes"],
                "what it missed is brought to it",
            )
            load.run_for(300)
            history = load.stop()
            load.read_all()
    assert [str(event) for event in history.failures] == []
    judged(history)
    check_latency(history, began + FIRST_MOMENTS_S, mended)


def check_latency(history: History, since: float, until: float) -> None:
    # Those at ONE as well; writes wait for two of three owners only.
    for events in (history.reads, history.writes):
        meanwhile = [event for event in events if since <= event.began < until]
        assert len(meanwhile) > 100
        assert p99_s(meanwhile) < BOUND_S
