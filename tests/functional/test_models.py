"""The Spin models hold, every rule taken away is noticed, and the script notices if it were not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import ROOT

# The verifiers are compiled and run one after the other; on a busy machine that takes a while.
pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(400)]

SCRIPT = ROOT / "scripts" / "run_models.py"
MODELS = ROOT / "docs" / "models"


def run(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = None if path is None else {"PATH": path}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=390, check=False, env=environment
    )


def mended(model: str, macro: str, folder: Path) -> Path:
    """The models, of which one no longer heeds a macro that takes a rule away."""
    copy = folder / "models"
    shutil.copytree(MODELS, copy)
    file = copy / model
    text = file.read_text()
    assert macro in text
    file.write_text(text.replace(macro, "NEVER_DEFINED"))
    return copy


def test_every_model_holds_and_every_rule_taken_away_is_noticed(tmp_path: Path) -> None:
    done = run("--json", str(tmp_path / "models.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "models.json").read_text())
    assert all(outcome["as_expected"] and not outcome["problem"] for outcome in outcomes)
    assert {outcome["expected"] for outcome in outcomes} == {"holds", "caught", "reached"}
    assert sum(outcome["states"] for outcome in outcomes) > 1_000_000


def test_a_broken_variant_that_is_not_caught_fails(tmp_path: Path) -> None:
    models = mended("quorum.pml", "NEW_LIFE_SAME_EPOCH", tmp_path)
    done = run("--only", "quorum/new-life-same-epoch", "--models", str(models))
    assert done.returncode == 1
    assert "NOT as they must be: quorum/new-life-same-epoch" in done.stdout


def test_an_error_where_the_rules_are_kept_fails(tmp_path: Path) -> None:
    models = mended("register.pml", "#ifdef AN_ACCEPTOR_FORGETS", tmp_path)
    model = models / "register.pml"
    model.write_text(model.read_text().replace("NEVER_DEFINED", "#ifndef NEVER_DEFINED"))
    done = run("--only", "register/two-appends", "--models", str(models))
    assert done.returncode == 1
    assert "NOT as they must be: register/two-appends" in done.stdout


def test_a_model_that_gets_stuck_where_it_must_not_fails(tmp_path: Path) -> None:
    models = mended("move.pml", "end_gathering", tmp_path)
    done = run("--only", "move/one-of-each", "--models", str(models))
    assert done.returncode == 1
    assert "another error: pan:1: invalid end state" in done.stdout


def test_missing_tools_are_named(tmp_path: Path) -> None:
    done = run(path=str(tmp_path))
    assert done.returncode == 2
    assert "not installed: spin, gcc" in done.stderr


def test_a_counter_example_can_be_read() -> None:
    done = run("--trace", "quorum/new-life-same-epoch")
    assert done.returncode == 0, done.stderr
    assert "loses what it stored" in done.stdout
    assert "writer of v1: OK" in done.stdout


def test_an_unknown_check_is_answered_with_the_known_ones() -> None:
    done = run("--only", "nonsense")
    assert done.returncode == 2
    assert "quorum/power-cut" in done.stderr
