"""Which interpreter `scripts/setup.sh` makes .venv with, among some that are shell scripts."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOLS = ("bash", "dirname", "env", "grep", "touch", "mkdir", "cp")  # all that the PATH leads to
SLOWER = "a tenth slower"

# Answers what setup.sh asks of an interpreter, and makes an environment that says who made it.
INTERPRETER = """\
#!/bin/sh
case "$*" in
    "-I scripts/judge_python.py") {judged} ;;
    "-c import sys"*) exit {old} ;;
    "-c import ensurepip, venv") exit {bare} ;;
    --version) echo "Python {name}" ;;
    "-m venv --clear .venv")
        mkdir -p .venv/bin
        cp "$0" .venv/bin/python
        echo {name} >.venv/made-by ;;
    "-m pip "*) ;;
    *) echo "not expected: $*" >&2; exit 64 ;;
esac
"""


@dataclass
class Machine:
    """A project with nothing but the scripts, and a machine with some interpreters."""

    folder: Path

    def interpreter(self, where: str, *, name: str = "", judged: str = "") -> Path:
        """Put one at `where`; it says `judged` of itself, or can not say it."""
        path = self.folder / where
        path.write_text(
            INTERPRETER.format(
                name=name or where,
                judged=f"echo {judged}" if judged else "echo broken >&2; exit 1",
                old=0 if judged else 1,
                bare=int(judged == "bare"),
            )
        )
        path.chmod(0o755)
        return path

    def set_up(self, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / 'path'}:{self.folder / 'tools'}"
        return subprocess.run(
            [self.folder / "scripts" / "setup.sh", "run"],
            env={"PATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def taken(self) -> str:
        return (self.folder / ".venv" / "made-by").read_text().strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for folder in ("path", "distribution", "tools", "scripts"):
        (tmp_path / folder).mkdir()
    for tool in TOOLS:
        (tmp_path / "tools" / tool).symlink_to(shutil.which(tool) or tool)
    script = tmp_path / "scripts" / "setup.sh"
    shutil.copy(ROOT / "scripts" / "setup.sh", script)
    own, other = "distribution=/usr/bin\n", f"distribution={tmp_path}/distribution\n"
    text = script.read_text()
    assert text.count(own) == 1
    script.write_text(text.replace(own, other))
    return Machine(tmp_path)


def test_one_with_a_profile_is_taken_before_one_without(machine: Machine) -> None:
    machine.interpreter("path/python3", judged="plain")
    machine.interpreter("path/python3.13", judged="plain")
    machine.interpreter("path/python3.12", judged="optimised")
    machine.interpreter("distribution/python3", judged="optimised")
    done = machine.set_up()
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.taken() == "path/python3.12"
    assert SLOWER not in done.stdout
    assert f"Python path/python3.12, {machine.folder}/path/python3.12\n" in done.stdout


def test_the_first_with_a_profile_is_taken(machine: Machine) -> None:
    machine.interpreter("path/python3", judged="optimised")
    machine.interpreter("path/python3.14", judged="optimised")
    assert machine.set_up().returncode == 0
    assert machine.taken() == "path/python3"


def test_the_distribution_s_own_is_found_behind_those_on_path(machine: Machine) -> None:
    machine.interpreter("path/python3", judged="plain")
    machine.interpreter("distribution/python3.11", judged="optimised")
    assert machine.set_up().returncode == 0
    assert machine.taken() == "distribution/python3.11"


def test_without_any_profile_the_first_is_taken_and_it_is_said(machine: Machine) -> None:
    machine.interpreter("path/python3", judged="plain")
    machine.interpreter("path/python3.12", judged="plain")
    done = machine.set_up()
    assert machine.taken() == "path/python3"
    [said] = [line for line in done.stdout.splitlines() if SLOWER in line]
    assert "python3 is about" in said
    assert "python3-venv" in said


def test_one_without_venv_is_passed_over_quietly(machine: Machine) -> None:
    machine.interpreter("path/python3", judged="bare")
    machine.interpreter("path/python3.11", judged="plain")
    machine.interpreter("distribution/python3", judged="bare")
    done = machine.set_up()
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.taken() == "path/python3.11"


def test_where_none_has_venv_the_package_is_named(machine: Machine) -> None:
    machine.interpreter("path/python3", judged="bare")
    done = machine.set_up()
    assert done.returncode == 1
    assert "python3 has no venv module" in done.stderr
    assert "apt-get install python3-venv" in done.stderr


def test_one_without_wheels_or_that_does_not_run_is_never_taken(machine: Machine) -> None:
    machine.interpreter("path/python3", judged="unsupported")
    machine.interpreter("path/python3.13")
    machine.interpreter("path/python3.12", judged="plain")
    done = machine.set_up()
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.taken() == "path/python3.12"
    shutil.rmtree(machine.folder / ".venv")
    (machine.folder / "path" / "python3.12").unlink()
    done = machine.set_up()
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert not (machine.folder / ".venv").exists()


def test_the_one_that_is_named_is_taken_without_question(machine: Machine) -> None:
    machine.interpreter("path/python3", judged="optimised")
    named = machine.interpreter("named", judged="plain")
    done = machine.set_up(PYTHON=str(named))
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.taken() == "named"
    assert SLOWER not in done.stdout


@pytest.mark.parametrize(
    ("judged", "said"), [("", "older than Python 3.11"), ("bare", "has no venv module")]
)
def test_one_that_is_named_and_will_not_do_is_an_error(
    machine: Machine, judged: str, said: str
) -> None:
    machine.interpreter("path/python3", judged="optimised")
    done = machine.set_up(PYTHON=str(machine.interpreter("named", judged=judged)))
    assert done.returncode == 1
    assert f"{machine.folder}/named" in done.stderr
    assert said in done.stderr
    assert not (machine.folder / ".venv").exists()


def test_an_environment_that_is_there_stays(machine: Machine) -> None:
    machine.interpreter("path/python3", judged="plain")
    machine.set_up()
    machine.interpreter("distribution/python3", judged="optimised")
    done = machine.set_up()
    assert machine.taken() == "path/python3"
    assert "making" not in done.stdout
    (machine.folder / ".venv" / "bin" / "python").unlink()
    assert machine.set_up().returncode == 0
    assert machine.taken() == "distribution/python3"
