"""The rules of RFC 9113 as playbooks: what a client says, what it hears."""

from itertools import pairwise

import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire import http2_frames as h2
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes
from tests.support.http2_playbook import (
    HELLO,
    Peer,
    call,
    data,
    echo,
    head,
    headers,
    message,
    request,
)

ECHOED = ["HEADERS 1 200", "DATA 1 b'\\x00\\x00\\x00\\x00\\x01x'", "TRAILERS 1 grpc-status=0"]


class Service:
    """Echo answers at once; Keep holds its calls for the test to end."""

    def __init__(self) -> None:
        self.kept: list[Call] = []
        self.cancelled: list[Call] = []

    def routes(self) -> GrpcRoutes:
        return GrpcRoutes({b"/t.T/Echo": echo, b"/t.T/Keep": self._keep})

    def _keep(self, call: Call, message: bytes) -> None:
        self.kept.append(call)
        call.on_cancel = self.cancelled.append


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def peer(service: Service) -> Peer:
    return Peer(service.routes())


def window_update(stream: int, increment: int) -> bytes:
    return h2.window_update_frame(stream, increment)


def setting(name: int, value: int) -> bytes:
    return h2.settings_frame({name: value})


# The beginning.


def test_the_preface_is_answered_with_settings() -> None:
    peer = Peer(GrpcRoutes(), hello=b"")
    assert peer.hears() == ["SETTINGS", "WINDOW_UPDATE 0 4128769"]
    peer.says(HELLO)
    assert peer.hears() == ["SETTINGS ACK"]


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        h2.PREFACE[:-1] + b"x",
        h2.PREFACE + h2.ping_frame(b"too soon"),
        h2.PREFACE + h2.SETTINGS_ACK,
    ],
)
def test_another_beginning_ends_the_connection(beginning: bytes) -> None:
    peer = Peer(GrpcRoutes(), hello=b"")
    peer.says(beginning)
    assert peer.hears()[-1] == "GOAWAY 0 PROTOCOL_ERROR"
    assert peer.http.finished


# Requests.


def test_a_call_is_answered(peer: Peer) -> None:
    peer.says(call(1))
    assert peer.hears() == ECHOED
    assert peer.http.streams == {}


def test_a_body_may_come_in_many_frames_and_end_in_an_empty_one(peer: Peer) -> None:
    body = message(b"x")
    peer.says(
        request(1), *(data(1, body[at : at + 1]) for at in range(len(body))), data(1, end=True)
    )
    assert peer.hears() == ECHOED


def test_trailers_of_the_client_end_its_body(peer: Peer) -> None:
    peer.says(request(1), data(1, message(b"x")), headers(1, [("a", "1")], end=True))
    assert peer.hears() == ECHOED


def test_a_header_block_may_come_in_continuations(peer: Peer) -> None:
    block = request(1)[9:]
    peer.says(h2.frame(h2.HEADERS, 0, 1, block[:20]))
    peer.says(h2.frame(h2.CONTINUATION, 0, 1, block[20:40]))
    peer.says(h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, block[40:]))
    peer.says(data(1, message(b"x"), end=True))
    assert peer.hears() == ECHOED


def test_padding_and_priority_are_no_part_of_the_message(peer: Peer) -> None:
    block = b"\3" + b"\0\0\0\0\x10" + request(1)[9:] + b"\0\0\0"
    peer.says(
        h2.frame(h2.HEADERS, h2.END_HEADERS | h2.PADDED | h2.HAS_PRIORITY, 1, block),
        h2.frame(h2.DATA, h2.END_STREAM | h2.PADDED, 1, b"\5" + message(b"x") + b"\0" * 5),
    )
    assert peer.hears() == ECHOED


def test_priority_and_unknown_frames_are_ignored(peer: Peer) -> None:
    peer.says(h2.frame(h2.PRIORITY, 0, 9, b"\0\0\0\0\0"), h2.frame(0xFE, 0xFF, 3, b"?"), call(1))
    assert peer.hears() == ECHOED


def test_ping_is_answered_and_its_ack_is_not(peer: Peer) -> None:
    peer.says(h2.ping_frame(b"12345678"), h2.ping_frame(b"abcdefgh", h2.ACK))
    assert peer.hears() == ["PING ACK 12345678"]


def test_a_changed_table_size_is_acknowledged_in_the_next_block(peer: Peer) -> None:
    peer.says(setting(h2.SETTINGS_HEADER_TABLE_SIZE, 0))
    peer.hears()
    peer._decoder.max_allowed_table_size = 0  # refuses blocks that do not shrink the table
    peer.says(call(1))
    assert peer.hears() == ECHOED


# Faults of a stream: the others live on.


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (request(1, path=""), "PROTOCOL_ERROR"),
        (request(1, connection="close"), "PROTOCOL_ERROR"),
        (request(1, end=True, content_length="6"), "PROTOCOL_ERROR"),
        (request(1, content_length="5") + data(1, message(b"x"), end=True), "PROTOCOL_ERROR"),
        (request(1, content_length="7") + data(1, message(b"x"), end=True), "PROTOCOL_ERROR"),
        (request(1) + headers(1, [("a", "1")]), "PROTOCOL_ERROR"),
        (request(1) + headers(1, [(":path", "/")], end=True), "PROTOCOL_ERROR"),
        (request(1) + window_update(1, 0), "PROTOCOL_ERROR"),
        (request(1) + window_update(1, 2**31 - 1), "FLOW_CONTROL_ERROR"),
        (call(1, "/t.T/Keep") + data(1, b"late"), "STREAM_CLOSED"),
    ],
)
def test_a_fault_of_a_stream_resets_it_alone(peer: Peer, frames: bytes, code: str) -> None:
    peer.says(frames)
    assert peer.hears() == [f"RST_STREAM 1 {code}"]
    peer.says(call(3))
    assert peer.hears()[-1] == "TRAILERS 3 grpc-status=0"


def test_what_follows_our_reset_is_discarded_and_credited(peer: Peer) -> None:
    peer.says(request(1) + headers(1, [("a", "1")]))
    assert peer.hears() == ["RST_STREAM 1 PROTOCOL_ERROR"]
    peer.says(*(data(1, b"x" * 16_384) for _ in range(200)), headers(1, [("a", "1")], end=True))
    assert set(peer.hears()) == {"WINDOW_UPDATE 0 2113536"}


# Faults of the connection.


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (data(1, b"x"), "PROTOCOL_ERROR"),
        (data(0, b"x"), "PROTOCOL_ERROR"),
        (request(2), "PROTOCOL_ERROR"),
        (request(0), "PROTOCOL_ERROR"),
        (h2.rst_stream_frame(1, 8), "PROTOCOL_ERROR"),
        (window_update(1, 1), "PROTOCOL_ERROR"),
        (window_update(0, 0), "PROTOCOL_ERROR"),
        (window_update(0, 2**31 - 1), "FLOW_CONTROL_ERROR"),
        (h2.frame(h2.WINDOW_UPDATE, 0, 0, b"\0\0\1"), "FRAME_SIZE_ERROR"),
        (h2.frame(h2.PING, 0, 0, b"7 bytes"), "FRAME_SIZE_ERROR"),
        (h2.frame(h2.PING, 0, 1, b"8 bytes!"), "PROTOCOL_ERROR"),
        (h2.frame(h2.SETTINGS, 0, 1, b""), "PROTOCOL_ERROR"),
        (h2.frame(h2.SETTINGS, 0, 0, b"\0" * 5), "FRAME_SIZE_ERROR"),
        (h2.frame(h2.SETTINGS, h2.ACK, 0, b"\0" * 6), "FRAME_SIZE_ERROR"),
        (setting(h2.SETTINGS_ENABLE_PUSH, 2), "PROTOCOL_ERROR"),
        (setting(h2.SETTINGS_INITIAL_WINDOW_SIZE, 2**31), "FLOW_CONTROL_ERROR"),
        (setting(h2.SETTINGS_MAX_FRAME_SIZE, 16_383), "PROTOCOL_ERROR"),
        (setting(h2.SETTINGS_MAX_FRAME_SIZE, 2**24), "PROTOCOL_ERROR"),
        (h2.frame(h2.GOAWAY, 0, 1, b"\0" * 8), "PROTOCOL_ERROR"),
        (h2.frame(h2.GOAWAY, 0, 0, b"\0" * 7), "FRAME_SIZE_ERROR"),
        (h2.frame(h2.PRIORITY, 0, 0, b"\0" * 5), "PROTOCOL_ERROR"),
        (h2.frame(h2.PRIORITY, 0, 1, b"\0" * 4), "FRAME_SIZE_ERROR"),
        (h2.frame(h2.RST_STREAM, 0, 1, b"\0" * 5), "FRAME_SIZE_ERROR"),
        (h2.frame(h2.PUSH_PROMISE, 4, 1, b"\0\0\0\2"), "PROTOCOL_ERROR"),
        (h2.frame(h2.CONTINUATION, 4, 1, b""), "PROTOCOL_ERROR"),
        (h2.frame(h2.DATA, 0, 1, b"x" * 16_385), "FRAME_SIZE_ERROR"),
        (b"\xff\xff\xff\x00\x00\0\0\0\1", "FRAME_SIZE_ERROR"),  # of which nothing else has come
    ],
)
def test_a_fault_of_the_connection_ends_it(peer: Peer, frames: bytes, code: str) -> None:
    peer.says(frames)
    assert peer.hears() == [f"GOAWAY 0 {code}"]
    assert peer.http.finished


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (data(1, b"late"), "STREAM_CLOSED"),
        (request(1), "STREAM_CLOSED"),
        (h2.frame(h2.HEADERS, h2.END_HEADERS, 3, b"\xff\xff\xff\xff\xff\xff"), "COMPRESSION_ERROR"),
        (h2.frame(h2.HEADERS, 0, 3) + h2.ping_frame(b"12345678"), "PROTOCOL_ERROR"),
        (h2.frame(h2.HEADERS, 0, 3) + h2.frame(h2.CONTINUATION, 4, 5), "PROTOCOL_ERROR"),
    ],
)
def test_faults_after_a_finished_call(peer: Peer, frames: bytes, code: str) -> None:
    peer.says(call(1))
    peer.hears()
    peer.says(frames)
    assert peer.hears()[-1].endswith(code)
    assert peer.http.finished


def test_frames_that_cross_our_answer_are_no_fault(peer: Peer) -> None:
    peer.says(call(1), window_update(1, 10), h2.rst_stream_frame(1, h2.CANCEL))
    assert peer.hears() == ECHOED


def test_a_fault_cancels_what_is_at_work(peer: Peer, service: Service) -> None:
    peer.says(call(1, "/t.T/Keep"), data(0))
    assert service.cancelled == service.kept
    service.kept[0].respond(b"too late")
    assert peer.hears() == ["GOAWAY 1 PROTOCOL_ERROR"]


# Flow control.


def test_data_beyond_the_stream_window_resets_the_stream(peer: Peer) -> None:
    peer.says(request(1, "/t.T/Keep"))
    peer.http.hold_credit(peer.http.streams[1], True)
    body = message(b"x" * 300_000)
    frames = [data(1, body[at : at + 16_384]) for at in range(0, 262_145, 16_384)]
    peer.says(*frames)
    assert peer.hears() == ["RST_STREAM 1 FLOW_CONTROL_ERROR"]


def test_a_window_is_refilled_when_half_is_used(peer: Peer) -> None:
    peer.says(request(1, "/t.T/Keep"))
    body = message(b"x" * 300_000)
    peer.says(*(data(1, body[at : at + 16_384]) for at in range(0, 16_384 * 9, 16_384)))
    assert peer.hears() == ["WINDOW_UPDATE 1 147456"]


def test_padding_counts_in_both_windows(peer: Peer) -> None:
    """A byte in each frame of 257."""
    peer.says(request(1, "/t.T/Keep"))
    body = message(bytes(100_000))[:9_000]
    padded = (b"\xff" + body[at : at + 1] + bytes(255) for at in range(len(body)))
    peer.says(*(h2.frame(h2.DATA, h2.PADDED, 1, payload) for payload in padded))
    credited = {"0": 0, "1": 0}
    for line in peer.hears():
        name, stream, size = line.split()
        assert name == "WINDOW_UPDATE"
        credited[stream] += int(size)
    sent = 257 * len(body)
    assert sent - 128 * 1024 <= credited["1"] <= sent
    assert sent - 2 * 1024 * 1024 <= credited["0"] <= sent


def test_a_window_is_not_refilled_after_the_end(peer: Peer) -> None:
    body = message(b"x" * (9 * 16_384 - 5))
    frames = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
    peer.says(request(1, "/t.T/Keep"), *(data(1, part) for part in frames[:-1]))
    peer.says(data(1, frames[-1], end=True))
    assert peer.hears() == []


def test_an_answer_waits_for_the_stream_window(service: Service) -> None:
    hello = h2.PREFACE + setting(h2.SETTINGS_INITIAL_WINDOW_SIZE, 4)
    peer = Peer(service.routes(), hello=hello)
    peer.says(call(1))
    assert peer.hears() == ["HEADERS 1 200", "DATA 1 b'\\x00\\x00\\x00\\x00'"]
    peer.says(window_update(1, 1))
    assert peer.hears() == ["DATA 1 b'\\x01'"]
    peer.says(window_update(1, 100))
    assert peer.hears() == ["DATA 1 b'x'", "TRAILERS 1 grpc-status=0"]


def test_a_setting_moves_the_windows_of_open_streams(service: Service) -> None:
    peer = Peer(service.routes(), hello=h2.PREFACE + setting(h2.SETTINGS_INITIAL_WINDOW_SIZE, 2))
    peer.says(call(1))
    assert peer.hears() == ["HEADERS 1 200", "DATA 1 b'\\x00\\x00'"]
    peer.says(setting(h2.SETTINGS_INITIAL_WINDOW_SIZE, 0))  # the window is at -2 now
    peer.says(window_update(1, 2))
    assert peer.hears() == ["SETTINGS ACK"]
    peer.says(setting(h2.SETTINGS_INITIAL_WINDOW_SIZE, 4))
    assert peer.hears() == [
        "SETTINGS ACK",
        "DATA 1 b'\\x00\\x00\\x01x'",
        "TRAILERS 1 grpc-status=0",
    ]


def test_a_setting_that_overflows_a_window_ends_the_connection(peer: Peer) -> None:
    peer.says(call(1, "/t.T/Keep"), window_update(1, 2**31 - 1 - 65_535))
    peer.says(setting(h2.SETTINGS_INITIAL_WINDOW_SIZE, 65_536))
    assert peer.hears() == ["GOAWAY 1 FLOW_CONTROL_ERROR"]


def test_large_answers_take_turns(peer: Peer, service: Service) -> None:
    peer.says(call(1, "/t.T/Keep"), call(3, "/t.T/Keep"))
    for kept in service.kept:
        kept.respond(b"x" * 30_000)
    heard = peer.hears()
    streams = [line.split()[1] for line in heard if line.startswith("DATA")]
    assert streams == ["1", "3", "1", "3"]
    assert heard[-1] == "TRAILERS 3 grpc-status=0"


def test_the_connection_window_bounds_all_streams(peer: Peer, service: Service) -> None:
    peer.says(call(1, "/t.T/Keep"), call(3, "/t.T/Keep"))
    peer.says(window_update(1, 100_000), window_update(3, 100_000))
    for kept in service.kept:
        kept.respond(b"x" * 60_000)
    assert _data_bytes(peer.hears()) == 65_535
    peer.says(window_update(0, 100_000))
    assert _data_bytes(peer.hears()) == 2 * 60_005 - 65_535


def _data_bytes(heard: list[str]) -> int:
    return sum(int(line.split()[2]) for line in heard if line.startswith("DATA"))


def test_a_small_answer_passes_a_large_one(peer: Peer, service: Service) -> None:
    peer.says(call(1, "/t.T/Keep"))
    service.kept[0].respond(b"x" * 200_000)
    peer.hears()
    peer.says(window_update(0, 1_000), call(3))
    assert "TRAILERS 3 grpc-status=0" in peer.hears()


# Any split of the bytes gives the same conversation.


def _conversation() -> bytes:
    encoder = Encoder()

    def encoded(stream: int, fields: list[tuple[str, str]]) -> bytes:
        return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, encoder.encode(fields))

    warm = head(grpc_timeout="1S")
    return b"".join(
        [
            HELLO,
            encoded(1, warm) + data(1, message(b"one"), end=True),
            encoded(3, warm) + data(3, message(b"three" * 9)[:20]),
            h2.ping_frame(b"12345678"),
            encoded(5, head(":unknown")) + data(5, message(b""), end=True),
            data(3, message(b"three" * 9)[20:], end=True),
            window_update(0, 5),
            request(7, ":bad") + h2.rst_stream_frame(7, h2.CANCEL),
            encoded(9, warm) + data(9, message(b"nine"), end=True),
            data(1, b"on a closed stream"),
            call(11),
        ]
    )


@given(st.lists(st.integers(0, len(_conversation())), max_size=30))
def test_any_split_of_the_bytes_gives_the_same_conversation(cuts: list[int]) -> None:
    conversation = _conversation()
    whole = Peer(Service().routes(), hello=b"")
    whole.says(conversation)
    edges = [0, *sorted(cuts), len(conversation)]
    split = Peer(Service().routes(), hello=b"")
    for start, stop in pairwise(edges):
        split.says(conversation[start:stop])
    assert split.hears() == whole.hears()
    assert whole.counters.messages_sent == 3


FRAMES = st.builds(
    h2.frame,
    st.integers(0, 11),
    st.sampled_from((0, 1, 4, 5, 8, 9, 0x20, 0x2D)),
    st.integers(0, 7),
    st.one_of(
        st.binary(max_size=12),
        st.just(request(1)[9:]),
        st.just(message(b"x")),
        st.integers(0, 2**32 - 1).map(h2.UINT32.pack),
    ),
)


@given(
    st.lists(
        st.one_of(FRAMES, st.sampled_from((call(1), call(3), call(5, "/t.T/Keep")))), max_size=40
    )
)
def test_no_frames_break_the_server(frames: list[bytes]) -> None:
    service = Service()
    peer = Peer(service.routes(), GrpcLimits(max_concurrent_streams=2))
    peer.says(*frames)
    assert len(peer.http.streams) <= 2
    heard = peer.hears()
    assert peer.http.finished == any(line.startswith("GOAWAY") for line in heard)
    peer.http.lost()
    for kept in service.kept:
        kept.fail(1, "gone")
    assert peer.http.streams == {}
    assert peer.server.held_bytes == 0
    assert peer.counters.calls_started == peer.counters.calls_ended
