"""The benchmark of the doors, once, with tiny counts: that it measures, and how it fails."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from control_plane.dev.die_with_parent import tied
from tests.support.processes import ends_within

pytestmark = [pytest.mark.slow, pytest.mark.peers]

DOORS = [sys.executable, "-P", "-m", "bench", "doors"]
TINY = ["--interpreted", "--rounds", "1", "--seconds", "0.05"]
TINY += ["--keys", "2000", "--map-buckets", "256"]
RATIOS = ("D1", "D1_cpu", "D2", "D2_cpu", "D3", "D3_cpu", "D4", "D5", "D6", "D7")
DEADLINE_S = 90.0
STARTED = "dabba-doors-"


def start(temporary: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "TMPDIR": str(temporary), **variables}
    return subprocess.Popen(
        tied([*DOORS, *arguments]),
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def in_session_of(temporary: Path) -> list[int]:
    """Pids of the processes whose working folder lies in `temporary`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(temporary):
                found.append(int(process.name))
        except OSError:  # gone, or somebody else's
            pass
    return found


def positive_numbers(found: Mapping[str, Any]) -> bool:
    return all(isinstance(found[name], float | int) and found[name] > 0 for name in RATIOS)


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """By what a test starts, though it be run in the background, where shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("b")


def test_one_short_round_gives_all_ratios_and_leaves_nothing(temporary: Path) -> None:
    drawing = temporary / "doors.png"
    process = start(temporary, *TINY, "--json", "--plot", str(drawing))
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    found = orjson.loads(out)
    assert positive_numbers(found)
    workloads = found["raw"]["workloads"]
    assert workloads["get"].keys() == {"sidecar", "envoy", "twemproxy", "haproxy", "straight"}
    assert workloads["grpc get"].keys() == {"sidecar", "grpc.aio echo", "door echo"}
    assert all(
        contender["per_s"]["median"] > 0 and contender["cpu_s_per_100k"]["median"] > 0
        for contenders in workloads.values()
        for contender in contenders.values()
    )
    assert drawing.read_bytes().startswith(b"\x89PNG")
    assert in_session_of(temporary) == []
    assert [entry.name for entry in temporary.iterdir()] == ["doors.png"]


def test_stopped_while_it_measures_it_ends_all_that_it_started(temporary: Path) -> None:
    process = start(temporary, *TINY, "--rounds", "1000")
    deadline = time.monotonic() + DEADLINE_S
    while not list(temporary.glob(f"{STARTED}*/*.body")):  # the last thing before it measures
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    watched = [os.pidfd_open(pid) for pid in in_session_of(temporary)]
    assert len(watched) > 10
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + signal.SIGINT
    assert "stopped" in err
    assert all(ends_within(pidfd, 5_000) for pidfd in watched)
    assert list(temporary.iterdir()) == []


def test_missing_peers_are_named_with_the_command_that_installs_them(temporary: Path) -> None:
    process = start(temporary, *TINY, PATH="")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (2, "")
    assert "redis-benchmark" in err
    assert "Type: make setup-dev peers" in err
