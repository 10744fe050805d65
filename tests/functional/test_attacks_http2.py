"""Hostile clients at the gRPC door of a running sidecar.

Throughout it lives, takes bounded memory and processor time, and serves an honest client on both
doors; who attacks is told why and closed where nothing better can be done.
"""

import socket
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from bench import attacks_http2 as hostile
from bench.attacks import Attack, connect
from sidecar.wire import http2_frames as h2
from tests.support.attacked import MIB, Target, until_closed
from tests.support.http2_playbook import CODES
from tests.support.local_cluster import LocalCluster, local_cluster, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def target(cluster: LocalCluster) -> Target:
    return Target.of(cluster).prepare()


def frames_of(heard: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each frame."""
    frames = []
    while len(heard) >= 9:
        high, low, kind, flags, stream = h2.FRAME_HEADER.unpack_from(heard)
        end = 9 + (high << 8 | low)
        frames.append((kind, flags, stream, heard[9:end]))
        heard = heard[end:]
    return frames


def goaway(heard: bytes) -> str:
    """The name of the code of the GOAWAY that was said last; "" for none."""
    codes = [payload[4:8] for kind, _, _, payload in frames_of(heard) if kind == h2.GOAWAY]
    return CODES[int.from_bytes(codes[-1])] if codes else ""


@pytest.mark.parametrize("attack", hostile.FLOODS, ids=lambda attack: attack.name)
def test_a_flood_is_told_to_calm_down_and_closed(target: Target, attack: Attack) -> None:
    with target.attacked() as bill:
        for _ in range(3):
            fought = target.fight_to_the_end(attack, target.grpc_port, bill)
            assert goaway(fought.heard) == "ENHANCE_YOUR_CALM"


# Values behind windows or in sockets: 128 MiB of one client, and what was under way, in pieces.
QUEUED_BYTES = 512 * MIB
# Requests that wait: 64 MiB of one client, with errors behind a window for those that were begun.
WAITING_BYTES = 160 * MIB


@pytest.mark.parametrize("attack", hostile.GRINDS, ids=lambda attack: attack.name)
def test_what_is_borne_costs_no_more_than_honest_work(target: Target, attack: Attack) -> None:
    grows_bytes = {"answers": QUEUED_BYTES, "requests that pile": WAITING_BYTES}
    allowed = [most for words, most in grows_bytes.items() if attack.name.startswith(words)]
    with target.attacked(grows_bytes=sum(allowed) or 48 * MIB) as bill:
        fought = target.fight(attack, target.grpc_port, bill, for_s=3)
        assert goaway(fought.heard) == ""


def once(name: str, said: bytes, code: str) -> ParameterSet:
    return pytest.param(hostile.OPENING + said, code, id=name)


_OPEN = hostile.headers(1, hostile.head())
_DONE = hostile.get_call(3)
_FAR = h2.LARGEST_WINDOW_BYTES


@pytest.mark.parametrize(
    ("said", "code"),
    [
        once("an even stream id", hostile.get_call(2), "PROTOCOL_ERROR"),
        once("a stream id that goes back", _DONE + hostile.get_call(1), "STREAM_CLOSED"),
        once("DATA on stream 0", hostile.data(0, b"x"), "PROTOCOL_ERROR"),
        once("DATA on a stream never opened", hostile.data(5, b"x"), "PROTOCOL_ERROR"),
        once("RST_STREAM of a stream never opened", h2.rst_stream_frame(5, 8), "PROTOCOL_ERROR"),
        once("PUSH_PROMISE", h2.frame(h2.PUSH_PROMISE, 4, 1, bytes(4)), "PROTOCOL_ERROR"),
        once("CONTINUATION of nothing", h2.frame(h2.CONTINUATION, 4, 1), "PROTOCOL_ERROR"),
        once(
            "another frame within a header block",
            hostile.headers(1, hostile.head(), 0) + h2.ping_frame(bytes(8)),
            "PROTOCOL_ERROR",
        ),
        once("a frame of 16 MiB announced", b"\xff\xff\xff\0\0\0\0\0\1", "FRAME_SIZE_ERROR"),
        once("SETTINGS of 5 bytes", h2.frame(h2.SETTINGS, 0, 0, bytes(5)), "FRAME_SIZE_ERROR"),
        once("PING of 7 bytes", h2.frame(h2.PING, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
        once("more padding than frame", _OPEN + h2.frame(0, 8, 1, b"\xff"), "PROTOCOL_ERROR"),
        once(
            "a connection window beyond 2^31",
            h2.window_update_frame(0, _FAR),
            "FLOW_CONTROL_ERROR",
        ),
        once(
            "an initial window beyond 2^31",
            h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 31}),
            "FLOW_CONTROL_ERROR",
        ),
        once("a table beyond 4 KiB", hostile.headers(1, b"\x3f\xe2\x1f"), "COMPRESSION_ERROR"),
        once("an index of 2^70", hostile.headers(1, b"\xff" * 10 + b"\x01"), "COMPRESSION_ERROR"),
        once("an index of nothing", hostile.headers(1, b"\xff\x00"), "COMPRESSION_ERROR"),
    ],
)
def test_a_broken_rule_ends_the_connection_with_its_code(
    target: Target, said: bytes, code: str
) -> None:
    with connect(("127.0.0.1", target.grpc_port)) as sock:
        sock.sendall(said)
        assert goaway(until_closed(sock)) == code
    assert target.serves()


def test_who_speaks_http_1_is_told_what_this_is_and_closed(target: Target) -> None:
    with connect(("127.0.0.1", target.grpc_port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_000)
        assert goaway(until_closed(sock)) == "PROTOCOL_ERROR"


def test_a_hundred_thousand_resets_in_mid_body_leak_no_window(target: Target) -> None:
    """50 connections spend their whole budget of resets; each sends more than its window."""
    body = hostile.data(1, hostile.message(bytes(4_000))[:2_500])[9:]
    frames = b""
    for stream in range(1, 4_000, 2):
        frames += hostile.headers(stream, hostile.head()) + hostile.data(stream, body)
        frames += h2.rst_stream_frame(stream, h2.CANCEL)
    with target.attacked() as bill:
        for _ in range(50):
            with connect(("127.0.0.1", target.grpc_port)) as sock:
                sock.sendall(hostile.OPENING + frames)
                # It is served still: 5 MB have passed a window of 4 MiB.
                sock.sendall(hostile.get_call(4_001))
                assert hears_answer(sock, 4_001)
                bill.work += 6_000 + len(frames) // 1024
        wait_until(lambda: target.stat("held_bytes") == 0, "nothing of it is held")


def test_data_after_our_reset_is_credited_and_other_calls_go_on(target: Target) -> None:
    """Three windows' worth of DATA to a stream that was refused, by a client that keeps to them."""
    refused = hostile.headers(1, hostile.head()) + hostile.data(1, b"\0\xff\xff\xff\xff")
    with target.attacked() as bill, connect(("127.0.0.1", target.grpc_port)) as sock:
        sock.settimeout(10)
        sock.sendall(hostile.OPENING + refused)
        window, heard, sent = h2.DEFAULT_WINDOW_BYTES, b"", 0
        while sent < 12 * MIB:
            if window < 16_384:
                heard += sock.recv(65_536)
                window += credit_of(heard)
                heard = b""
                continue
            sock.sendall(hostile.data(1, bytes(16_384)))
            window -= 16_384
            sent += 16_384
        bill.work += sent // 1024
        sock.sendall(hostile.get_call(3))
        assert hears_answer(sock, 3)


def credit_of(heard: bytes) -> int:
    """The sum of WINDOW_UPDATEs of the connection; frames come whole here."""
    return sum(
        int.from_bytes(payload)
        for kind, _, stream, payload in frames_of(heard)
        if kind == h2.WINDOW_UPDATE and stream == 0
    )


def hears_answer(sock: socket.socket, stream: int) -> bool:
    """Whether this stream is answered with grpc-status 0."""
    sock.settimeout(10)
    heard = b""
    while data := sock.recv(1 << 18):
        heard += data
        for kind, flags, id_, payload in frames_of(heard):
            if id_ == stream and kind == h2.HEADERS and flags & h2.END_STREAM:
                return b"grpc-status\x010" in payload
    return False
