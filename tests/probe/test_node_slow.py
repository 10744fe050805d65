"""A node that stops answering while its connections stay open: reads go round it, and come back."""

import time

import pytest

from tests.support.fault_table import Judged
from tests.support.history import Event
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, wait_until
from tests.support.processes import resident_bytes

pytestmark = [pytest.mark.slow, pytest.mark.probe]

FIRST_MOMENTS_S = 0.5  # until the frozen node is known as such
FROZEN_S = 4.0
MAX_GROWTH_BYTES = 64 << 20


def percentile_ms(reads: list[Event], share: float) -> float:
    """Of the latencies of `reads`; 0 when there are none."""
    latencies = sorted(read.ended - read.began for read in reads)
    return latencies[int(share * (len(latencies) - 1))] * 1000 if latencies else 0.0


def shown(reads: list[Event]) -> str:
    """For the report."""
    return f"{len(reads)} reads, " + ", ".join(
        f"p{share * 100:g} {percentile_ms(reads, share):.1f} ms" for share in (0.5, 0.99, 0.999)
    )


def read_last(cluster: LocalCluster) -> set[str]:
    """The nodes that the sidecar reads after all others."""
    return {node["id"] for node in cluster.sidecar_page("nodes") if node["read_last"]}


@pytest.mark.fault(21)
def test_reads_go_round_a_frozen_node_within_tens_of_milliseconds(
    cluster: LocalCluster, judged: Judged
) -> None:
    with load_on(cluster) as load:
        time.sleep(2.0)  # how long it is healthy is part of what is measured
        before_bytes = resident_bytes(cluster.sidecar.pid)
        cluster.nodes[0].pause()
        frozen_at = time.monotonic()
        time.sleep(FROZEN_S)
        assert read_last(cluster) >= {"node-1"}
        grown_bytes = resident_bytes(cluster.sidecar.pid) - before_bytes
        thawed_at = time.monotonic()
        cluster.nodes[0].resume()
        wait_until(lambda: "node-1" not in read_last(cluster), "it is read as before", 10.0)
        load.run_for(500)
        history = load.stop()
        load.read_all()
    reads = [read for read in history.reads if read.began < thawed_at]
    before = [read for read in reads if read.ended < frozen_at]
    later = [read for read in reads if read.began - frozen_at >= FIRST_MOMENTS_S]
    assert history.failures == []
    judged(history)
    assert grown_bytes < MAX_GROWTH_BYTES  # what waits for it does not pile up
    bound_ms = max(30.0, 3 * percentile_ms(before, 0.99))
    assert percentile_ms(later, 0.99) < bound_ms, f"{shown(before)}; frozen: {shown(later)}"
