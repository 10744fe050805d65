"""Nodes that restart with all they acknowledged are trusted again within seconds."""

import pytest

from tests.support.dev import home
from tests.support.fault_table import Judged
from tests.support.history import History
from tests.support.load import load_on, read_everything
from tests.support.local_cluster import LocalCluster, local_cluster

pytestmark = [pytest.mark.slow, pytest.mark.probe]

TRUSTED_WITHIN_S = 6.0


@pytest.mark.fault(37)
def test_restarts_one_after_another_cost_nothing(
    kept_cluster: LocalCluster, judged: Judged
) -> None:
    with load_on(kept_cluster) as load:
        for node in kept_cluster.nodes:
            node.stop()
            node.start()
            kept_cluster.wait_trusted(TRUSTED_WITHIN_S)
        load.run_for(500)
        history = load.stop()
        load.read_all()
    assert history.failures == []
    judged(history)


@pytest.mark.fault(4)
def test_all_killed_at_once_have_lost_nothing_when_they_are_back_and_in_the_next_run(
    judged: Judged,
) -> None:
    history = History()
    with home() as at:
        with local_cluster("--data", "data", at=at) as cluster:
            with load_on(cluster, history) as load:
                for node in cluster.nodes:
                    node.kill()
                for node in cluster.nodes:
                    node.start()
                cluster.wait_trusted(TRUSTED_WITHIN_S)
                load.run_for(500)
                load.stop()
                load.read_all()
            before = len(history.failures)
            assert history.violations() == []
            for node in cluster.nodes:
                node.stop()
        with local_cluster("--data", "data", at=at) as cluster:
            assert cluster.facts["problems"] == []
            read_everything(cluster, history)
            with load_on(cluster, history):
                pass
    assert len(history.failures) == before
    judged(history)
