"""`make zookeeper`: one server in the foreground, gone with the shell it was typed in."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ends_within
from tests.support.servers import HOST, ROOT

pytestmark = [pytest.mark.peers, pytest.mark.slow]

# The tests themselves may run under nohup, which would be inherited.
NOT_UNDER_NOHUP = ["env", "--default-signal=HUP"]
SCRIPT = ROOT / "scripts" / "zookeeper.py"


def run(*arguments: str) -> subprocess.Popen[str]:
    command = [*NOT_UNDER_NOHUP, sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def server_pid(starter: subprocess.Popen[str]) -> int:
    """The process id that the script says once the server answers."""
    assert starter.stdout is not None
    said = starter.stdout.readline() + starter.stdout.readline()
    match = re.search(r"ready at 127\.0\.0\.1:\d+\n.*process (\d+);", said)
    assert match is not None, said
    return int(match[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_and_takes_its_data_along(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    script = run()
    server = os.pidfd_open(server_pid(script))
    assert list(tmp_path.iterdir())
    script.send_signal(number)
    output, _ = script.communicate(timeout=20)
    assert ends_within(server, timeout_ms=5_000)
    assert f"stopped ({number.name})" in output
    assert script.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_the_shell_above_make_ends_it(tmp_path: Path) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"zookeeper:\n\t@exec {sys.executable} {SCRIPT}\n")
    # `wait` keeps the shell from becoming make by exec.
    command = [*NOT_UNDER_NOHUP, "bash", "-c", f"make --no-print-directory -f {makefile} & wait"]
    shell = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    server = os.pidfd_open(server_pid(shell))
    shell.kill()
    assert ends_within(server, timeout_ms=20_000)
    output, _ = shell.communicate(timeout=20)
    assert "has ended (nohup lets it live on)" in output


def test_a_killed_server_ends_it_with_a_status() -> None:
    script = run()
    pid = server_pid(script)
    os.kill(pid, signal.SIGKILL)
    _, error = script.communicate(timeout=20)
    assert script.returncode == 1
    assert "the server ended with status -9" in error


def test_a_port_in_use_is_said_with_what_to_do() -> None:
    with socket.create_server((HOST, 0)) as listener:
        script = run("--port", str(listener.getsockname()[1]))
        _, error = script.communicate(timeout=60)
    assert script.returncode == 1
    assert "is in use. Name another one (make zookeeper PORT=...)" in error


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    script = run(f"--port={port}")
    _, error = script.communicate(timeout=20)
    assert script.returncode == 2
    assert "give a number from 1 to 65535" in error
