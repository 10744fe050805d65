"""Our side of the doors' benchmark: `dabba dev` as a user starts it, and a keyspace at ONE."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.doors_programs import BenchFailed, read_line, running, wait_until
from bench.doors_wire import answers

NODES = 6
ONE_DATABASE, WIDE_DATABASE = 10, 11
_DABBA = (sys.executable, "-P", "-c", "from control_plane.cli.main import main; main()")
_COMMAND_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster. Keyspace `default` (database 0) is read at QUORUM, `one` at ONE."""

    redis_port: int
    grpc_port: int
    control_plane: str
    sidecar_pid: int
    environment: dict[str, str]

    def create_keyspace(self, name: str, database: int, *, level: str, buckets: int) -> None:
        """Creates it and waits until the Redis door serves it."""
        arguments = ["keyspace", "create", name, "--read-consistency", level]
        arguments += ["--buckets", str(buckets), "--redis-db", str(database)]
        arguments += ["--timeout", str(_COMMAND_TIMEOUT_S), "--control-plane", self.control_plane]
        done = subprocess.run(
            [*_DABBA, *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise BenchFailed(f"keyspace {name} was not created: {done.stderr or done.stdout}")
        wait_until(self._serves(database), f"keyspace {name} is served", timeout_s=60)

    def _serves(self, database: int) -> Any:
        asked = answers(self.redis_port, database)

        def served() -> bool:
            try:
                return asked()
            except BenchFailed:  # the map that has the keyspace is not there yet
                return False

        return served


@contextmanager
def local_cluster(folder: Path, product: Path | None = None) -> Iterator[Cluster]:
    """`dabba dev` with six nodes in three zones, ready; all it keeps is inside `folder`.

    `product`: where its code is, instead of where ours is.
    """
    environment = {name: value for name, value in os.environ.items() if name[:6] != "DABBA_"}
    for name in ("TMPDIR", "XDG_RUNTIME_DIR", "HOME"):
        environment[name] = str(folder)
    if product is not None:
        environment["PYTHONPATH"] = str(product)
    command = [*_DABBA, "dev", "-o", "json", "--nodes", str(NODES)]
    with running("dabba-dev", command, folder, environment=environment) as process:
        log = folder / "dabba-dev.log"
        text = ""
        while not text.endswith("\n}\n"):
            text += read_line(process, "dabba dev", log)
        facts = msgspec.json.decode(text.encode())
        cluster = Cluster(
            _port(facts["sidecar"]["redis"]),
            _port(facts["sidecar"]["grpc"]),
            facts["control_plane"],
            facts["pids"]["sidecar"],
            environment,
        )
        cluster.create_keyspace("one", ONE_DATABASE, level="one", buckets=64)
        yield cluster


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
