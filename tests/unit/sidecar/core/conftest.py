"""What the tests of the core share."""

import pytest

from tests.support.fake_cluster import FakeSidecar
from tests.support.lanes import Lane, fast_lane, general_lane, lone_lane


@pytest.fixture(params=[general_lane, fast_lane, lone_lane], ids=["general", "fast", "lone"])
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Lane:
    """Every read of the test takes this way; modules that ask for it run on all."""
    chosen: Lane = request.param
    monkeypatch.setattr(FakeSidecar, "lane", staticmethod(chosen))
    return chosen
