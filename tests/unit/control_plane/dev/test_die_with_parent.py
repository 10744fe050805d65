"""The launcher that ties a program's life to that of its starter."""

import os
import subprocess
import sys

from control_plane.dev import die_with_parent
from control_plane.dev.die_with_parent import tied
from tests.support.processes import ends_within

START_A_SLEEPER = """
import subprocess, sys
from control_plane.dev.die_with_parent import tied
code = "import time; print('up', flush=True); time.sleep(60)"
sleeper = subprocess.Popen(tied([sys.executable, "-c", code]), stdout=subprocess.PIPE)
sleeper.stdout.readline()
print(sleeper.pid, flush=True)
sys.stdin.read()
"""


def test_the_program_takes_the_place_of_the_launcher() -> None:
    program = [sys.executable, "-c", "import os; print(os.getpid(), os.getppid())"]
    process = subprocess.Popen(tied(program), stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=10)
    assert output.split() == [b"%d" % process.pid, b"%d" % os.getpid()]


def test_the_program_is_killed_when_its_starter_is() -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", START_A_SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with starter:
        assert starter.stdout is not None
        sleeper = os.pidfd_open(int(starter.stdout.readline()))
        starter.kill()
    assert ends_within(sleeper, timeout_ms=10_000)


def test_nothing_is_run_when_the_starter_is_gone_already() -> None:
    not_our_pid = os.getppid()
    command = [sys.executable, die_with_parent.__file__, str(not_our_pid), "echo", "ran"]
    result = subprocess.run(command, capture_output=True, timeout=10, check=True)
    assert result.stdout == b""


def test_a_missing_program_is_named() -> None:
    result = subprocess.run(tied(["no-such-program"]), capture_output=True, timeout=10, check=False)
    assert result.returncode == die_with_parent.EXIT_NOT_FOUND
    assert b"no-such-program" in result.stderr
    assert b"check that it is installed" in result.stderr
