"""The doors under attack, measured once for some attacks and an instant each."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from control_plane.dev.die_with_parent import tied

pytestmark = pytest.mark.slow

DOORS = [sys.executable, "-P", "-m", "bench", "doors", "--under-attack", "--interpreted"]
ATTACKS = {
    ("grpc", "requests of 400 fields"),
    ("redis", "unknown commands with CR and LF"),
    ("redis", "many keys in one command"),
}
DEADLINE_S = 90


def attacked(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        tied([*DOORS, *arguments]),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_an_honest_client_is_served_beside_each_attack(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    only = [word for _, name in ATTACKS for word in ("--only", name)]
    done = attacked("--seconds", "0.05", *only, "--json", str(result))
    assert done.returncode == 0, done.stderr
    assert f"of {len(ATTACKS)} above 2.0 times the control" in done.stdout
    found = orjson.loads(result.read_bytes())
    assert found["benchmark"] == "doors under attack"
    assert 0 < found["median_ratio"] <= found["worst_ratio"]
    assert {(one["door"], one["name"]) for one in found["attacks"]} == ATTACKS
    for one in found["attacks"]:
        assert one["name"] in done.stdout
        for served in (one["beside"], one["control"], found["alone"]):
            assert served["answers"] > 0
            assert 0 < served["p50_ms"] <= served["p99_ms"]


def test_an_attack_that_there_is_not_is_named(tmp_path: Path) -> None:
    done = attacked("--only", "a polite request")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no attack is called a polite request" in done.stderr
