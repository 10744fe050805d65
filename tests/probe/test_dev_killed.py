"""SIGKILL of `dabba dev` itself."""

import signal

import pytest

from tests.support.dev import home
from tests.support.fault_table import Judged
from tests.support.history import History
from tests.support.load import load_on, read_everything
from tests.support.local_cluster import local_cluster

pytestmark = [pytest.mark.slow, pytest.mark.probe]


@pytest.mark.fault(37)
def test_nothing_it_started_is_left_and_nothing_acknowledged_is_lost(judged: Judged) -> None:
    history = History()
    with home() as at:
        with local_cluster("--data", "data", at=at) as cluster, load_on(cluster, history) as load:
            watched = cluster.dev.watch()
            assert len(watched) == 8
            cluster.dev.end(signal.SIGKILL)
            assert cluster.dev.survivors(watched) == []
            load.stop()
        assert history.violations() == []
        assert history.acknowledged > 0
        with local_cluster("--data", "data", at=at) as cluster:
            assert cluster.facts["problems"] == []
            before = len(history.failures)
            read_everything(cluster, history)
    assert len(history.failures) == before
    judged(history)
