"""The servers that other tests run on start, fail, come back and end as those tests rely on."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ends_within
from tests.support.servers import Server, ServerFailed, Servers, installed, start_valkey


def ask(server: Server, request: bytes) -> bytes:
    with socket.create_connection((server.host, server.port), timeout=5.0) as connection:
        connection.sendall(request)
        return connection.recv(4096)


def test_a_valkey_answers_as_soon_as_it_is_returned(valkey: Server) -> None:
    assert ask(valkey, b"PING\r\n") == b"+PONG\r\n"


@pytest.mark.peers
def test_a_redis_server_answers_as_soon_as_it_is_returned(redis_server: Server) -> None:
    assert ask(redis_server, b"PING\r\n") == b"+PONG\r\n"


@pytest.mark.peers
@pytest.mark.slow
def test_a_zookeeper_serves_as_soon_as_it_is_returned(zookeeper: Server) -> None:
    assert b"Mode: standalone" in ask(zookeeper, b"srvr")


@pytest.mark.peers
@pytest.mark.slow
def test_a_killed_zookeeper_comes_back_on_its_port(servers: Servers) -> None:
    server = servers.zookeeper()
    first_pid = server.pid
    server.kill()
    server.restart()
    assert server.pid != first_pid
    assert b"Mode: standalone" in ask(server, b"srvr")


def test_a_killed_server_without_persistence_comes_back_empty(valkey: Server) -> None:
    ask(valkey, b"SET key value\r\n")
    valkey.kill()
    valkey.restart()
    assert ask(valkey, b"GET key\r\n") == b"$-1\r\n"


def test_a_stopped_server_with_an_append_only_file_comes_back_with_its_data(
    servers: Servers,
) -> None:
    server = servers.valkey("--appendonly", "yes", "--appendfsync", "always")
    ask(server, b"SET key value\r\n")
    server.kill()
    server.restart()
    assert ask(server, b"GET key\r\n") == b"$5\r\nvalue\r\n"


def test_an_erased_server_comes_back_empty(servers: Servers) -> None:
    server = servers.valkey("--appendonly", "yes", "--appendfsync", "always")
    ask(server, b"SET key value\r\n")
    server.stop()
    server.erase()
    server.restart()
    assert ask(server, b"GET key\r\n") == b"$-1\r\n"


def test_a_paused_server_answers_only_when_it_is_resumed(valkey: Server) -> None:
    with socket.create_connection((valkey.host, valkey.port), timeout=5.0) as connection:
        valkey.pause()
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(16)
        valkey.resume()
        connection.settimeout(5.0)
        assert connection.recv(16) == b"+PONG\r\n"


def test_a_port_that_is_taken_is_said_with_the_servers_own_log(
    valkey: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    with pytest.raises(ServerFailed, match="in use"):
        start_valkey(folder, port=valkey.port)


def test_a_missing_program_is_said_with_the_command_that_installs_it() -> None:
    with pytest.raises(ServerFailed, match="no-such-program is missing.*make peers"):
        installed("no-such-program")


START_AND_SAY_PID = """
import pathlib, sys
from tests.support.processes import ends_within
from tests.support.servers import start_valkey
print(start_valkey(pathlib.Path(sys.argv[1])).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_server_is_gone_when_the_process_that_started_it_was_killed(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", START_AND_SAY_PID, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with starter:
        assert starter.stdout is not None
        server = os.pidfd_open(int(starter.stdout.readline()))
        starter.kill()
    assert ends_within(server, timeout_ms=10_000)
