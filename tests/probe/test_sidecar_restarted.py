"""The sidecar itself drained, killed, and run with several workers, under load."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.fault_table import Judged
from tests.support.history import NOT_APPLIED, History
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, wait_until
from tests.support.processes import ends_within

pytestmark = [pytest.mark.slow, pytest.mark.probe]


def lost_connections_only(history: History) -> bool:
    """Whether nothing failed but for want of a sidecar: no operation got a wrong or odd answer."""
    words = ("onnect", "Socket closed", "losed by server", "UNAVAILABLE", "No such file", "GOAWAY")
    return all(any(word in event.error for word in words) for event in history.failures)


@pytest.mark.fault(37)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_sidecar_that_restarts_loses_nothing_it_acknowledged(
    cluster: LocalCluster,
    number: signal.Signals,
    judged: Judged,
) -> None:
    with load_on(cluster) as load:
        for _ in range(2):
            if number is signal.SIGTERM:
                cluster.sidecar.stop()
            else:
                cluster.sidecar.kill()
            cluster.sidecar.start()
            cluster.wait_served()
            load.run_for(500)
        history = load.stop()
        load.read_all()
    judged(history)
    assert lost_connections_only(history), {event.error for event in history.failures}
    assert not any(event.outcome == NOT_APPLIED for event in history.failures)


@pytest.mark.fault(37)
def test_two_workers_share_the_doors_and_lose_nothing_when_a_node_or_one_of_them_dies(
    cluster: LocalCluster,
    judged: Judged,
) -> None:
    cluster.sidecar.stop()
    cluster.sidecar.start("--workers", "2")
    cluster.wait_served()
    wait_until(lambda: both_serve(cluster), "both have started")
    with load_on(cluster) as load:
        cluster.nodes[0].kill()
        load.run_for(1_000)
        assert load.history.failures == []
        (worker,) = workers_of(cluster)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: workers_of(cluster) not in ([], [worker]), "another one is started")
        wait_until(lambda: both_serve(cluster), "it serves")
        load.run_for(500)
        history = load.stop()
        load.read_all()
    judged(history)
    assert lost_connections_only(history), {event.error for event in history.failures}


@pytest.mark.fault(37)
def test_workers_end_when_the_first_process_is_killed(cluster: LocalCluster) -> None:
    cluster.sidecar.stop()
    cluster.sidecar.start("--workers", "3")
    wait_until(lambda: len(workers_of(cluster)) == 2, "all have started")
    watched = [os.pidfd_open(worker) for worker in workers_of(cluster)]
    cluster.sidecar.kill()
    assert all(ends_within(pidfd, 5_000) for pidfd in watched)


def both_serve(cluster: LocalCluster) -> bool:
    return bool(cluster.sidecar_page("stats")["workers"] == 2)


def workers_of(cluster: LocalCluster) -> list[int]:
    pid = cluster.sidecar.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]
