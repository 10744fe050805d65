"""Clients that take their time, crowds, and shortages: a sidecar with short patience and few seats.

It lives, lets go whom it has waited for long enough, and serves an honest client throughout.
"""

import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench import attacks_http2 as http2
from bench.attacks import connect
from sidecar.wire import http2_frames as h2
from tests.functional.test_attacks_http2 import frames_of, goaway
from tests.support.attacked import MIB, Target, until_closed
from tests.support.conversation import packed
from tests.support.local_cluster import LocalCluster, local_cluster, wait_until

pytestmark = pytest.mark.slow

SEATS = 60
PATIENCE_MS = 1_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def target(cluster: LocalCluster) -> Target:
    return Target.second(
        cluster,
        grpc_socket=str(cluster.folder / "slow-grpc.sock"),
        redis_socket=str(cluster.folder / "slow-redis.sock"),
        max_connections=SEATS,
        half_sent_timeout_ms=PATIENCE_MS,
        unread_timeout_ms=PATIENCE_MS,
    ).prepare()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        pytest.param(h2.PREFACE[:10], "ENHANCE_YOUR_CALM", id="half a preface"),
        pytest.param(b"", "ENHANCE_YOUR_CALM", id="no preface"),
        pytest.param(http2.OPENING + b"\0\0", "ENHANCE_YOUR_CALM", id="half a frame"),
        pytest.param(
            http2.OPENING + http2.headers(1, http2.head(), 0),
            "ENHANCE_YOUR_CALM",
            id="half a block",
        ),
    ],
)
def test_slowloris_at_the_grpc_door_is_let_go(target: Target, said: bytes, code: str) -> None:
    with target.attacked(), ExitStack() as stack:
        for sock in crowd(stack, target.grpc_port, 40):
            sock.sendall(said)
        sock.settimeout(10)
        assert goaway(until_closed(sock)) == code


def test_a_request_whose_end_never_comes_is_reset(target: Target) -> None:
    with target.attacked(), connect(("127.0.0.1", target.grpc_port)) as sock:
        sock.settimeout(10)
        sock.sendall(http2.OPENING + http2.headers(1, http2.head()))
        heard = b""
        while not any(kind == h2.RST_STREAM for kind, *_ in frames_of(heard)):
            heard += sock.recv(65_536)


def test_half_commands_for_ever_are_let_go(target: Target) -> None:
    with target.attacked(), ExitStack() as stack:
        for sock in crowd(stack, target.redis_port, 40):
            sock.sendall(b"*2\r\n$3\r\nGET\r\n$10\r\nhal")
        assert until_closed(sock) == b""


def test_a_client_that_reads_no_replies_is_let_go(target: Target) -> None:
    with (
        target.attacked(grows_bytes=192 * MIB) as bill,
        connect(("127.0.0.1", target.redis_port)) as sock,
    ):
        sock.sendall(packed("GET", "large") * 200)
        bill.work += 200
        wait_until(lambda: target.stat("closed_stalled", "redis") == 1, "it is let go")


def test_an_answer_behind_a_closed_window_is_given_up(target: Target) -> None:
    opening = h2.PREFACE + h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    with target.attacked(), connect(("127.0.0.1", target.grpc_port)) as sock:
        sock.settimeout(10)
        sock.sendall(opening + http2.get_call(1, b"large"))
        heard = b""
        while not any(kind == h2.RST_STREAM for kind, *_ in frames_of(heard)):
            heard += sock.recv(65_536)
        wait_until(lambda: target.stat("queued_bytes") == 0, "what was queued is forgotten")


def test_connections_beyond_the_limit_are_turned_away_and_the_rest_served(target: Target) -> None:
    with target.attacked(), ExitStack() as stack:
        seated = crowd(stack, target.redis_port, SEATS + 20)
        words = b""
        for sock in seated[-20:]:
            words += until_closed(sock)
        assert words.count(b"-ERR max number of clients reached\r\n") == 20
        for sock in crowd(stack, target.grpc_port, SEATS + 20)[-20:]:
            assert until_closed(sock) == b""


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("door", ["redis", "grpc"])
def test_without_file_descriptors_newcomers_are_shed_and_clients_served(
    cluster: LocalCluster, target: Target, door: str, unix: bool
) -> None:
    port = target.redis_port if door == "redis" else target.grpc_port
    place = str(cluster.folder / f"slow-{door}.sock") if unix else ("127.0.0.1", port)
    said = packed("PING") if door == "redis" else http2.OPENING + http2.get_call(1)
    limits = resource.prlimit(target.pid, resource.RLIMIT_NOFILE)
    with target.attacked(), ExitStack() as stack:
        resource.prlimit(target.pid, resource.RLIMIT_NOFILE, (target.usage.files() + 5, limits[1]))
        try:
            shed = 0
            for sock in [stack.enter_context(connect(place)) for _ in range(40)]:
                sock.settimeout(10)
                try:
                    sock.sendall(said)
                    shed += sock.recv(7) == b""
                except (ConnectionResetError, BrokenPipeError):
                    shed += 1
            assert 30 <= shed < 40
        finally:
            resource.prlimit(target.pid, resource.RLIMIT_NOFILE, limits)
    assert target.serves()


def test_a_loop_that_stood_still_for_two_seconds_answers_or_refuses_typed(target: Target) -> None:
    with target.redis() as talk:
        assert talk.ask("GET", "honest") == b"an honest value"
        os.kill(target.pid, signal.SIGSTOP)
        try:
            talk.socket.sendall(packed("GET", "honest") * 100)
            began = time.monotonic()
            wait_until(lambda: time.monotonic() > began + 2, "two seconds are over")
        finally:
            os.kill(target.pid, signal.SIGCONT)
        answers = [talk.answer() for _ in range(100)]
        refused = {answer for answer in answers if answer != b"an honest value"}
        assert all(
            answer is not None and answer.startswith((b"-TIMEOUT", b"-OVERLOADED"))
            for answer in refused
        ), refused
    wait_until(target.serves, "it serves as before")


def test_a_drain_says_goodbye_twice_and_finishes_what_was_begun(target: Target) -> None:
    with connect(("127.0.0.1", target.grpc_port)) as sock:
        sock.settimeout(10)
        sock.sendall(http2.OPENING + http2.get_call(1))
        heard = b""
        while not any(kind == h2.HEADERS for kind, *_ in frames_of(heard)):
            heard += sock.recv(65_536)
        os.kill(target.pid, signal.SIGTERM)
        while not any(kind == h2.GOAWAY for kind, *_ in frames_of(heard)):
            heard += sock.recv(65_536)
        # Before its PING is answered it takes what crossed its first goodbye.
        sock.sendall(http2.get_call(3) + h2.ping_frame(b"draining", h2.ACK))
        heard += until_closed(sock)
    goodbyes = [payload for kind, _, _, payload in frames_of(heard) if kind == h2.GOAWAY]
    assert [int.from_bytes(text[:4]) for text in goodbyes] == [h2.LARGEST_STREAM_ID, 3]
    ended = [id_ for kind, flags, id_, _ in frames_of(heard) if kind == h2.HEADERS and flags & 1]
    assert ended == [1, 3]


def crowd(stack: ExitStack, port: int, count: int) -> list[socket.socket]:
    """So many connections."""
    return [stack.enter_context(connect(("127.0.0.1", port))) for _ in range(count)]
