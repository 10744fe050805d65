"""Every test here starts real processes and treats them badly."""

from collections.abc import Iterator

import pytest

from tests.support.local_cluster import LocalCluster, local_cluster


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Six nodes in three zones, in memory: a node that restarts is empty."""
    with local_cluster() as running:
        yield running


@pytest.fixture
def kept_cluster() -> Iterator[LocalCluster]:
    """The same on kept data: a node that restarts has all that it acknowledged."""
    with local_cluster("--data", "data") as running:
        yield running
