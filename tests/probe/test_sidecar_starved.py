"""A sidecar without file descriptors, and one whose loop stands still for two seconds."""

import resource
import socket
import time

import pytest

from tests.support.fault_table import Judged
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, wait_until
from tests.support.processes import open_files

pytestmark = [pytest.mark.slow, pytest.mark.probe, pytest.mark.fault(39)]

SPARE_FILES = 4
CONNECTIONS = 40
BLOCKED_S = 2.0
TYPED = ("TIMEOUT", "OVERLOADED", "UNAVAILABLE", "UNKNOWN", "NOTAPPLIED")
TYPED_GRPC = ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "ABORTED")


def served(port: int) -> bool:
    """Whether a new connection is."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def test_without_file_descriptors_those_who_are_connected_are_served(
    cluster: LocalCluster, judged: Judged
) -> None:
    pid = cluster.sidecar.pid
    with load_on(cluster) as load:
        assert served(cluster.redis_port)
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        few = open_files(pid) + SPARE_FILES
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, limits[1]))
        many = [
            socket.create_connection(("127.0.0.1", cluster.redis_port)) for _ in range(CONNECTIONS)
        ]
        wait_until(lambda: not served(cluster.redis_port), "there are none left")
        load.run_for(1_000)
        assert open_files(pid) <= few
        for connection in many:
            connection.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        wait_until(lambda: served(cluster.redis_port), "new connections are served")
        load.run_for(300)
        history = load.stop()
        load.read_all()
    assert [event for event in history.failures if "open files" in event.error] == []
    judged(history)


def test_a_loop_that_stands_still_loses_nothing_and_sheds_typed(
    cluster: LocalCluster, judged: Judged
) -> None:
    with load_on(cluster) as load:
        cluster.sidecar.pause()
        time.sleep(BLOCKED_S)  # how long it stands still is what is tested
        cluster.sidecar.resume()
        load.run_for(300)
        late = len(load.history.failures)
        load.run_for(1_000)
        history = load.stop()
        load.read_all()
    assert len(history.failures) == late  # all well again
    for event in history.failures:
        words = TYPED_GRPC if "grpc" in event.door else TYPED
        assert any(word in event.error for word in words), str(event)
    judged(history)
