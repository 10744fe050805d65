"""Runs one ZooKeeper server, from the distribution's package, in the foreground.

    python scripts/zookeeper.py [--port PORT] [--data FOLDER]

Listens on 127.0.0.1 only. Says `zookeeper: ready at 127.0.0.1:PORT` once it answers, not before.
Ends, and takes the server and a temporary data folder with it, on Ctrl-C, on SIGTERM, and when the
shell it was typed in ends (unless that shell was told to let it live on, with nohup).
"""

import argparse
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from control_plane.dev.die_with_parent import die_with, tied

HOST = "127.0.0.1"
JAR = Path("/usr/share/java/zookeeper.jar")
LOGGER_JAR = JAR.with_name("slf4j-simple.jar")  # without it ZooKeeper does not say why it ended
MAIN_CLASS = "org.apache.zookeeper.server.ZooKeeperServerMain"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 5.0
POLL_S = 0.05
ATTEMPTS = 5  # a free port may be taken by another process before ZooKeeper listens on it

# The shortest tick that leaves sessions of one second possible: what a test of an expiry waits for.
CONFIGURATION = """\
clientPort={port}
clientPortAddress={host}
dataDir={data}
tickTime=500
minSessionTimeout=1000
maxSessionTimeout=60000
maxClientCnxns=0
4lw.commands.whitelist=srvr,ruok,mntr,cons,stat
"""


class Failed(Exception):
    """The server cannot be run; the message says what to do."""


class PortTaken(Failed):
    """Another process listens on the port."""


class Stopped(Exception):
    """Someone asked for the end; the message says who."""


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    port: int
    data: Path


def check_installed() -> None:
    if not JAR.exists() or shutil.which("java") is None:
        raise Failed(f"java or {JAR} is missing. Install both: make peers")


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether the server takes requests: its `srvr` word says a mode only when it does."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"srvr")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return False
    return b"Mode: " in answer


def start(port: int, data: Path) -> Running:
    """Starts the server and waits until it answers. Raises Failed, PortTaken, Stopped."""
    configuration = data / "zoo.cfg"
    configuration.write_text(CONFIGURATION.format(port=port, host=HOST, data=data))
    command = [
        "java",
        "-Xmx128m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",  # starts sooner, and uses less of a machine that runs tests too
        "-Dzookeeper.admin.enableServer=false",
        "-Dzookeeper.preAllocSize=1024",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        f"{JAR}:{LOGGER_JAR}",
        MAIN_CLASS,
        str(configuration),
    ]
    with (data / "zookeeper.log").open("wb") as log:
        process = subprocess.Popen(
            tied(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this script alone, which stops it in order
        )
    running = Running(process, port, data)
    try:
        wait_until_it_answers(running)
    except BaseException:
        stop(running)
        raise
    return running


def wait_until_it_answers(running: Running) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while not answers(running.port):
        if running.process.poll() is not None:
            raise why_it_ended(running)
        if time.monotonic() > deadline:
            raise Failed(f"no answer within {START_DEADLINE_S:.0f} s; see {running.data}")
        time.sleep(POLL_S)
    # Whoever answers must be the server just started, not one that held the port before it.
    if running.process.poll() is not None:
        raise why_it_ended(running)


def why_it_ended(running: Running) -> Failed:
    log = (running.data / "zookeeper.log").read_text(errors="replace")
    if "Address already in use" in log:
        return PortTaken(
            f"port {running.port} is in use. Name another one (make zookeeper PORT=...),"
            " or none, and a free one is taken"
        )
    last_lines = "\n".join(log.splitlines()[-8:])
    return Failed(f"the server ended with status {running.process.returncode}:\n{last_lines}")


def start_somewhere(port: int | None, data: Path) -> Running:
    """Starts the server on `port`, or, when it is None, on a free one."""
    if port is not None:
        return start(port, data)
    for _ in range(ATTEMPTS - 1):
        try:
            return start(free_port(), data)
        except PortTaken:
            continue
    return start(free_port(), data)


def stop(running: Running) -> None:
    running.process.terminate()
    try:
        running.process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.wait()


def parent_of(pid: int) -> tuple[int, str]:
    """The parent of a process and the name of its program."""
    # "pid (name) state parent ...", where the name may hold spaces and brackets.
    match = re.match(r"\d+ \((.*)\) \S (\d+) ", Path(f"/proc/{pid}/stat").read_text(), re.DOTALL)
    if match is None:
        raise Failed(f"/proc/{pid}/stat cannot be read; Linux is needed")
    return int(match[2]), match[1]


def lives_to_follow() -> list[int]:
    """The processes whose end is ours: the parent, and above a `make` the shell it was typed in."""
    pid, followed = os.getppid(), []
    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    while pid > 1:
        above, name = parent_of(pid)
        followed.append(pid)
        if under_nohup or name not in ("make", "gmake"):
            break
        pid = above
    return followed


def wait_for_the_end(running: Running, followed: list[int]) -> None:
    """Returns when a followed process ends; raises Failed when the server does."""
    poll = select.poll()
    descriptors = {os.pidfd_open(running.process.pid): running.process.pid}
    for pid in followed:
        try:
            descriptors[os.pidfd_open(pid)] = pid
        except ProcessLookupError:
            raise Stopped(f"process {pid}, which started it, has ended") from None
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    ended = {descriptors[descriptor] for descriptor, _ in poll.poll()}
    if running.process.pid in ended:
        running.process.wait()
        raise why_it_ended(running)
    raise Stopped(f"process {min(ended)}, which started it, has ended (nohup lets it live on)")


@contextmanager
def data_folder(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="dabbawala-zookeeper-") as folder:
        yield Path(folder)


def serve(port: int | None, data: Path) -> None:
    check_installed()
    followed = lives_to_follow()
    running = start_somewhere(port, data)
    try:
        print(f"zookeeper: ready at {HOST}:{running.port}", flush=True)
        print(f"zookeeper: process {running.process.pid}; Ctrl-C stops it", flush=True)
        wait_for_the_end(running, followed)
    finally:
        stop(running)


def port_number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number from 1 to 65535")
    return int(text)


def stop_on(number: int, _frame: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)


def listen_for_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop_on)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it, on purpose
        signal.signal(signal.SIGHUP, stop_on)


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs one ZooKeeper server in the foreground.")
    parser.add_argument(
        "--port", type=port_number, help="the port to listen on (default: a free one)"
    )
    parser.add_argument("--data", type=Path, help="a folder to keep (default: a temporary one)")
    arguments = parser.parse_args()
    die_with(os.getppid(), signal.SIGTERM)
    listen_for_signals()
    try:
        with data_folder(arguments.data) as data:
            serve(arguments.port, data)
    except Stopped as reason:
        print(f"zookeeper: stopped ({reason})", flush=True)
    except Failed as error:
        sys.exit(f"zookeeper: {error}")


if __name__ == "__main__":
    main()
