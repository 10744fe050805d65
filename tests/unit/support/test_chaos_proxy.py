"""What stands between a client and a server: it passes, delays, chokes, cuts and resets."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.chaos_proxy import ChaosProxy
from tests.support.servers import free_port


def echo(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    try:
        while data := connection.recv(1 << 16):
            connection.sendall(data)
    except OSError:
        pass
    finally:
        connection.close()


@pytest.fixture
def proxy() -> Iterator[ChaosProxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        running = ChaosProxy(free_port(), listener.getsockname()[1])
        yield running
        running.close()
        listener.shutdown(socket.SHUT_RDWR)


def connected(proxy: ChaosProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def round_trip_s(client: socket.socket, data: bytes = b"x") -> float:
    began = time.monotonic()
    client.sendall(data)
    got = b""
    while len(got) < len(data):
        got += client.recv(1 << 16)
    assert got == data
    return time.monotonic() - began


def test_bytes_pass_as_they_are(proxy: ChaosProxy) -> None:
    with connected(proxy) as client:
        round_trip_s(client, bytes(range(256)) * 4000)


@pytest.mark.slow
def test_a_road_may_be_slow_and_be_mended(proxy: ChaosProxy) -> None:
    with connected(proxy) as client:
        proxy.common.slow(delay_s=0.2)
        assert round_trip_s(client) >= 0.2
        proxy.common.slow(bytes_per_s=1000)
        assert round_trip_s(client, b"x" * 300) >= 0.3
        proxy.common.mend()
        round_trip_s(client)


@pytest.mark.slow
@pytest.mark.parametrize(("there", "back"), [(True, True), (True, False), (False, True)])
def test_what_was_sent_into_a_cut_arrives_when_it_is_mended(
    proxy: ChaosProxy, there: bool, back: bool
) -> None:
    with connected(proxy) as client:
        round_trip_s(client)
        proxy.common.cut(there=there, back=back)
        client.sendall(b"late")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(10)
        proxy.common.mend()
        client.settimeout(10)
        assert client.recv(10) == b"late"


def test_a_reset_ends_connections_and_new_ones_are_taken(proxy: ChaosProxy) -> None:
    with connected(proxy) as client:
        round_trip_s(client)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            assert client.recv(10)  # closed in order: not what a reset is
    with connected(proxy) as client:
        round_trip_s(client)


@pytest.mark.slow
def test_a_process_may_have_a_road_of_its_own(proxy: ChaosProxy) -> None:
    code = (
        "import socket, sys\n"
        "sys.stdin.readline()\n"
        f"s = socket.create_connection(('127.0.0.1', {proxy.port}))\n"
        "s.sendall(b'x')\n"
        "s.settimeout(0.2)\n"
        "try: print('passed' if s.recv(1) == b'x' else 'closed')\n"
        "except TimeoutError: print('cut off')\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    proxy.road_of(other.pid).cut()
    proxy.road_of(os.getpid())
    said, _ = other.communicate("\n", timeout=20)
    assert said.strip() == "cut off"
    with connected(proxy) as client:
        round_trip_s(client)
