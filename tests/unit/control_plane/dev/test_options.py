import re
from pathlib import Path

import pytest

from control_plane.dev.errors import BadOption
from control_plane.dev.options import DevOptions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DevOptions(nodes=0), "--nodes is 0; give 1 to 64"),
        (DevOptions(nodes=65), "--nodes is 65"),
        (DevOptions(nodes=3, zones=4), "--zones is 4"),
        (DevOptions(zones=0), "--zones is 0"),
        (DevOptions(zookeeper="nowhere"), "HOST:PORT"),
        (DevOptions(zookeeper="zookeeper://h:2181"), "HOST:PORT"),
        (DevOptions(zookeeper="h:2181,"), "HOST:PORT"),
        (DevOptions(load="towns"), "give one of: cities"),
        (DevOptions(load="cities", run_s=0.0), "--for is 0"),
        (DevOptions(load="cities", run_s=-1.0), "--for is -1"),
        (DevOptions(load="cities", run_s=float("nan")), "--for is nan"),
        (DevOptions(load="cities", run_s=1e9), "--for is 1e+09"),
        (DevOptions(run_s=5.0), "--for is about a load"),
        (DevOptions(exit_after_load=True), "--exit is about a load"),
        (DevOptions(report=Path("r.json")), "--json is about a load"),
        (DevOptions(load="cities", report=Path("/no/such/r.json")), "mkdir -p /no/such"),
        (DevOptions(load="cities", report=Path("/")), "can not be written"),
    ],
)
def test_what_can_not_be_is_refused_with_the_bound(options: DevOptions, words: str) -> None:
    with pytest.raises(BadOption, match=re.escape(words)):
        options.check()


@pytest.mark.parametrize(
    "options",
    [
        DevOptions(),
        DevOptions(nodes=1, zones=1),
        DevOptions(nodes=64, zones=64),
        DevOptions(zookeeper="127.0.0.1:2181,zk2:2182"),
        DevOptions(load="cities", run_s=0.5, exit_after_load=True, report=Path("report.json")),
    ],
)
def test_what_can_be_passes(options: DevOptions) -> None:
    options.check()


def test_the_demo_extra_is_asked_for_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadOption, match=r"dabbawala\[demo\]"):
        DevOptions(load="cities").check()
