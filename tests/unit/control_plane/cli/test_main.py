import subprocess
import sys
from importlib.metadata import version

import pytest

from control_plane.cli.main import run
from tests.unit.control_plane.cli.conftest import Dabba

COMMANDS = (
    "dev", "status", "keyspace create", "keyspace list", "keyspace describe", "node add",
    "node list", "map show", "where", "get", "put", "delete", "sidecars", "doctor",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_knows_both_outputs(dabba: Dabba, command: str) -> None:
    answer = dabba(*command.split(), "--help")
    assert answer.status == 0
    assert "--output" in answer.out


def test_version(dabba: Dabba) -> None:
    answer = dabba("--version")
    assert (answer.status, answer.out) == (0, f"dabba {version('dabbawala')}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gte"], "Did you mean 'get'?"),
        (["get"], "see: dabba get --help"),
        (["get", "k", "--nope"], "--nope"),
        (["get", "k", "--timeout", "0"], "--timeout"),
        (["get", "k", "-o", "yaml"], "'json'"),
        (["keyspace", "create", "k", "--redis-db", "-2"], "--redis-db"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(dabba: Dabba, arguments: list[str], words: str) -> None:
    answer = dabba(*arguments)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("dabba: ")
    assert answer.err.count("\n") == 1
    assert words in answer.err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("control_plane.cli.main.app", interrupted)
    assert run(["status"]) == 130


@pytest.mark.slow
def test_a_reader_that_stops_reading_is_no_traceback(data: object) -> None:
    script = "import sys; from control_plane.cli.main import main; main()"
    command = [sys.executable, "-c", script, "where", "k"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == b""
