"""Real servers for tests: Valkey, Redis and ZooKeeper, on free ports of 127.0.0.1.

Each is tied to the life of the test process: it is gone after the test, and after a kill -9 of
pytest too. A server that is not installed fails the test with the command to type.

The functions block for as long as a server takes to start (Valkey 20 ms, ZooKeeper 1 s); call them
from fixtures, or from a coroutine with asyncio.to_thread only if nothing else must run meanwhile
(and see die_with_parent about threads: start servers from the main thread).
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from control_plane.dev.die_with_parent import tied
from control_plane.dev.valkey_binary import find_server

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parent.parent.parent
START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 10.0
POLL_S = 0.01
ATTEMPTS = 5  # a free port may be taken by another process before the server listens on it


class ServerFailed(Exception):
    """A server is not installed, or did not start; the message says what to do."""


@dataclass
class Server:
    """A running server, its address, and the ways in which a test may treat it badly.

    `pid` is the process that serves: the one to measure, or to kill in some other way.
    """

    name: str
    host: str
    port: int
    folder: Path
    command: list[str]
    process: subprocess.Popen[bytes]
    pid: int
    ready: Callable[["Server"], bool] = field(repr=False)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. What it had not written to disk is lost."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(STOP_DEADLINE_S)

    def stop(self) -> None:
        """A clean end: the server writes what it would keep. Does nothing when it has ended."""
        if self.running:
            self.resume()  # a paused process does not see SIGTERM
            self.process.terminate()
            try:
                self.process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Starts it again after kill() or stop(): same port, same folder."""
        if self.running:
            raise ServerFailed(f"{self.name} is still running; call stop() or kill() first")
        self.process = _spawn(self.command, self.folder)
        self.pid = self.process.pid
        _wait_until_ready(self)

    def erase(self) -> None:
        """Deletes its data, so that restart() brings it back empty. Only while it is down."""
        if self.running:
            raise ServerFailed(f"{self.name} is still running; call stop() or kill() first")
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "server.log":
                path.unlink()


def start_valkey(folder: Path, *arguments: str, port: int | None = None) -> Server:
    """Starts the Valkey that data nodes run: no persistence, evicts nothing.

    `arguments` are more of its options, e.g. "--appendonly", "yes", "--appendfsync", "always".
    """
    return _start_resp_server("valkey", str(find_server()), folder, arguments, port)


def start_redis(folder: Path, *arguments: str, port: int | None = None) -> Server:
    """Starts the distribution's redis-server, with the same settings as start_valkey."""
    return _start_resp_server("redis", installed("redis-server"), folder, arguments, port)


def start_zookeeper(folder: Path, port: int | None = None) -> Server:
    """Starts a single ZooKeeper, as `make zookeeper` does."""
    for program in ("java", "/usr/share/java/zookeeper.jar"):
        installed(program)
    return _first_that_starts(lambda free: _start_zookeeper(folder, free), port)


def installed(program: str) -> str:
    """The path of a program that `make peers` installs; ServerFailed when it is not there."""
    found = shutil.which(program) or (program if Path(program).is_file() else None)
    if found is None:
        raise ServerFailed(f"{program} is missing. Install it: make peers")
    return found


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Servers:
    """Starts servers, each in a folder of its own below `folder`, and stops them all together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Server] = []

    def valkey(self, *arguments: str, port: int | None = None) -> Server:
        return self._keep(start_valkey(self._next_folder("valkey"), *arguments, port=port))

    def redis(self, *arguments: str, port: int | None = None) -> Server:
        return self._keep(start_redis(self._next_folder("redis"), *arguments, port=port))

    def zookeeper(self, port: int | None = None) -> Server:
        return self._keep(start_zookeeper(self._next_folder("zookeeper"), port))

    def stop(self) -> None:
        for server in reversed(self._started):
            server.stop()

    def _keep(self, server: Server) -> Server:
        self._started.append(server)
        return server

    def _next_folder(self, name: str) -> Path:
        folder = self._folder / f"{name}-{len(self._started)}"
        folder.mkdir()
        return folder


@contextlib.contextmanager
def stopped_after(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.stop()


def _start_resp_server(
    name: str, program: str, folder: Path, arguments: tuple[str, ...], port: int | None
) -> Server:
    def start(chosen: int) -> Server:
        command = [program, "--bind", HOST, "--port", str(chosen), "--dir", str(folder)]
        command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
        command += ["--daemonize", "no", *arguments]
        process = _spawn(command, folder)
        server = Server(name, HOST, chosen, folder, command, process, process.pid, _answers_info)
        return _wait_until_ready(server)

    return _first_that_starts(start, port)


def _start_zookeeper(folder: Path, port: int) -> Server:
    script = ROOT / "scripts" / "zookeeper.py"
    command = [sys.executable, str(script), "--port", str(port), "--data", str(folder / "data")]
    process = _spawn(command, folder)
    server = Server("zookeeper", HOST, port, folder, command, process, process.pid, _says_ready)
    return _wait_until_ready(server)


def _first_that_starts(start: Callable[[int], Server], port: int | None) -> Server:
    """Starts on `port`; when it is None, on a free one, and on another if that was lost."""
    if port is not None:
        return start(port)
    for _ in range(ATTEMPTS - 1):
        try:
            return start(free_port())
        except ServerFailed as error:
            if "in use" not in str(error):
                raise
    return start(free_port())


def _spawn(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen(
            tied(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the tests, and they end the server in order
        )


def _wait_until_ready(server: Server) -> Server:
    deadline = time.monotonic() + START_DEADLINE_S
    while not server.ready(server):
        if not server.running:
            raise ServerFailed(f"{server.name} ended at once; its log:\n{server.log}")
        if time.monotonic() > deadline:
            server.kill()
            raise ServerFailed(f"{server.name} did not answer in time; its log:\n{server.log}")
        time.sleep(POLL_S)
    return server


def _answers_info(server: Server) -> bool:
    # Whoever answers must be this process, and not one that was faster in taking the port. And it
    # must have read its data: until then it knows nobody's keys.
    try:
        with socket.create_connection((server.host, server.port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(65536).startswith(b"-LOADING"):
                return False
            connection.sendall(b"INFO server\r\n")
            answer = connection.recv(65536)
    except OSError:
        return False
    return b"process_id:%d\r\n" % server.process.pid in answer or answer.startswith(b"-NOAUTH")


def _says_ready(server: Server) -> bool:
    match = re.search(r"ready at .*\n.*process (\d+);", server.log)
    if match is None:
        return False
    server.pid = int(match[1])
    return True
